"""Scenarios: the node says what is so, not what is wished. Functions that cannot run, and what everybody is told of them."""

import hashlib
import json
import os
import subprocess
import time
import urllib.request

from bench import ECHO, HOSTILE, definition
from kept import live_keys
from service import COMMAND_DEADLINE_S

DEADLINE_S = 60
# What is known of others makes no function warm here: only floors do.
FORECAST = {"newcomer-share": 0.0}


def run(service, *arguments):
    """Runs a command: its exit status, and what it prints on either stream."""
    command = [service.binary, *map(str, arguments), "--config", service.config]
    environment = {**os.environ, **service.environment}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, env=environment, check=False
    )
    return done.returncode, done.stdout, done.stderr


def until(what, look, deadline_s=DEADLINE_S):
    """Waits until `look` gives something that is true; that."""
    by = time.monotonic() + deadline_s
    while not (found := look()):
        assert time.monotonic() < by, f"waited {deadline_s} s in vain for {what}"
        time.sleep(0.2)
    return found


def ask(service, path):
    with urllib.request.urlopen(f"http://{service.admin()}/{path}", timeout=10) as answer:
        return json.load(answer)


def states(service, name):
    """What each node that is there says of a function: state, newest version, and version that runs."""
    told = json.loads(run(service, "function", "status", name, "--json")[1])
    return {
        status["node"]: (status["state"], status["version"], status["running_version"]) for status in told["functions"]
    }


def wait_states(service, name, wanted):
    seen = {}

    def look():
        seen["last"] = states(service, name)
        return seen["last"] == wanted

    try:
        until(f"{name} to be {wanted}", look)
    except AssertionError as fault:
        raise AssertionError(f"{fault}; it is {seen['last']}") from None


def conditions(service):
    """What /health/ready names beside an answer that says that calls are taken."""
    answer = ask(service, "health/ready")
    assert answer["status"] == "ok", answer
    return {(condition["kind"], condition["subject"]) for condition in answer.get("conditions", [])}


def own(directory, wasm, mark):
    """A component of its own digest, so that nobody has its code: the bytes with a custom section behind them."""
    section = bytes([4]) + b"mark" + mark.encode()
    path = directory / f"{mark}.wasm"
    path.write_bytes(wasm.read_bytes() + bytes([0, len(section)]) + section)
    return path


def what_is_so(bench):
    """A bad artifact, a missing one, an init that fails with a floor, and a good one: everybody who is asked says so."""
    service = bench.service(forecast=FORECAST).start()
    service.wait_ready(True)
    node = "e2e-node"
    broken = bench.directory / "broken.wasm"
    broken.write_bytes(b"\0asm\x0d\0\1\0 no component")

    # A bad artifact: the command that deployed it says so, with exit status 1; where it does not look itself, by a node's word.
    status, out, said = run(service, "function", "deploy", "broken", broken, "--version", "1")
    assert status == 1 and "no node can run it" in said and not out, (status, out, said)
    assert states(service, "broken") == {}
    status, out, said = run(service, "function", "deploy", "broken", broken, "--version", "1", "--unchecked")
    assert status == 1 and "broken is refused on node e2e-node" in said, (status, out, said)
    assert states(service, "broken") == {node: ("refused", "1", None)}
    explained = service.command("explain", "broken", "--admin", service.admin())
    assert explained.startswith("broken: version 1 is refused, since "), explained
    assert "its calls are rejected" in explained and "held" not in explained, explained

    # Without waiting: exit status 0, and the next step.
    status, out, said = run(service, "function", "deploy", "good", ECHO, "--version", "1", "--no-wait")
    assert status == 0 and json.loads(out)["name"] == "good", (out, said)
    assert "forewarm function status good" in said, said
    wait_states(service, "good", {node: ("loaded", "1", "1")})

    # A good one with a floor proves itself.
    status, out, said = run(service, "function", "deploy", "good", ECHO, "--version", "2", "--floor", "1", "--wait")
    assert status == 0 and "is on every node that is there: e2e-node" in said, (status, out, said)
    assert states(service, "good") == {node: ("running", "2", "2")}
    # A bad version does not take its place, and that is said.
    status, out, said = run(service, "function", "deploy", "good", broken, "--version", "3", "--unchecked")
    assert status == 1 and "version 3 of good is refused" in said, said
    assert states(service, "good") == {node: ("refused", "3", "2")}
    told = ask(service, "functions/good")
    assert (told["state"], told["version"], told["running_version"], told["ready"], told["target"]) == (
        "refused", "3", "2", 1, 1,
    ), told
    explained = service.command("explain", "good", "--admin", service.admin())
    assert explained.startswith("good: version 3 is refused, since ") and "version 2 serves" in explained, explained

    # A missing artifact: the node asks for it again and again.
    missing = own(bench.directory, ECHO, "missing")
    wanted = {"uri": "store:", "sha256": hashlib.sha256(missing.read_bytes()).hexdigest()}
    bench.define(definition("missing", ECHO) | {"artifact": wanted, "warm": {"floor": 3}})
    wait_states(service, "missing", {node: ("unavailable", "1", None)})
    told = until("the floor", lambda: (told := ask(service, "functions/missing"))["target"] == 3 and told)
    assert (told["state"], told["ready"], told["preparing"]) == ("unavailable", 0, 0), told
    explained = service.command("explain", "missing", "--admin", service.admin())
    assert explained.startswith("missing: version 1 cannot be loaded, since ") and "3 wanted, 0 ready" in explained, explained

    # An init that fails, with a floor of 2.
    status, out, said = run(
        service, "function", "deploy", "failing", HOSTILE, "--version", "1", "--floor", "2",
        "--env", "FAIL_INIT=no\x1b[2Jmodel", "--wait",
    )
    assert status == 1 and "failing is failing on node e2e-node" in said and "no\\u{1b}[2Jmodel" in said, (status, out, said)
    told = ask(service, "functions/failing")
    assert (told["state"], told["target"], told["ready"]) == ("failing", 2, 0), told
    assert told["failures"]["count"] >= 1 and "model" in told["failures"]["reason"], told
    explained = service.command("explain", "failing", "--admin", service.admin())
    assert explained.startswith("failing: an instance of version 1 cannot be prepared, since "), explained
    assert "2 wanted, 0 ready" in explained and "\x1b" not in explained and "held 2" not in explained, explained

    # All of that on one page, in one table, and beside a readiness that it does not turn off.
    listed = {row["function"]: (row["state"], row["ready"], row["target"]) for row in ask(service, "functions")}
    assert listed == {
        "broken": ("refused", 0, 0), "failing": ("failing", 0, 2), "good": ("refused", 1, 1), "missing": ("unavailable", 0, 3),
    }, listed
    table = service.command("function", "status").splitlines()
    assert table[0].split() == ["FUNCTION", "VERSION", "NODE", "STATE", "SINCE", "REASON"], table
    assert [line.split()[0] for line in table[1:]] == ["broken", "failing", "good", "missing"], table
    assert "3 (2 runs)" in table[3], table
    in_trouble = {
        ("function-refused", "broken"), ("function-failing", "failing"),
        ("function-refused", "good"), ("function-unavailable", "missing"),
    }
    assert conditions(service) == in_trouble, conditions(service)
    listed = [json.loads(line) for line in service.command("function", "list").splitlines()]
    assert {row["name"]: row["nodes"][0]["state"] for row in listed}["missing"] == "unavailable", listed

    # Mended: the artifact comes, and init succeeds.
    stored = service.directory / "artifacts" / f"{wanted['sha256']}.wasm"
    stored.write_bytes(missing.read_bytes())
    wait_states(service, "missing", {node: ("running", "1", "1")})
    for name, wasm, version in (("broken", ECHO, "2"), ("good", ECHO, "4"), ("failing", HOSTILE, "2")):
        run(service, "function", "deploy", name, wasm, "--version", version, "--floor", "2", "--unset-env", "FAIL_INIT")
        assert states(service, name) == {node: ("running", version, version)}
    until("no condition", lambda: not conditions(service))
    until("two instances", lambda: ask(service, "functions/failing")["ready"] == 2)
    explained = service.command("explain", "failing", "--admin", service.admin())
    assert explained.startswith("failing is held 2 ready: 2 by floor\n"), explained

    # Removed: nobody says anything of it any more when the command ends; and what is not there is not removed.
    status, _, said = run(service, "function", "remove", "broken")
    assert status == 0 and "version 2 of function broken was removed" in said and f"  {node}: removed" in said, (status, said)
    assert states(service, "broken") == {}
    status, _, said = run(service, "function", "remove", "broken")
    assert status == 1 and "is not registered: nothing was removed" in said, (status, said)
    assert run(service, "function", "status", "broken")[0] == 1
    assert service.stop() == 0
    # A node that ended says nothing of its functions any more.
    assert states(service, "good") == {}
    status, _, said = run(service, "function", "deploy", "good", ECHO, "--wait", "--wait-timeout", "1s")
    assert status == 1 and "no node is there" in said, said


def group_status(bench):
    """What the nodes of a group say, together; an earlier life and a removed function are not taken for what is so."""
    first = bench.service(forecast=FORECAST).start()
    # Of two machines: neither artifacts nor code are shared.
    second = bench.service(forecast=FORECAST, execute={"cache-directory": str(bench.directory / "code-2")}).start()
    for service in (first, second):
        service.wait_ready(True)
    # The second node has no such artifact.
    status, _, said = run(first, "function", "deploy", "f", own(bench.directory, ECHO, "here"), "--version", "1", "--floor", "1", "--no-wait")
    assert status == 0, said
    wanted = {"e2e-node": ("running", "1", "1"), "e2e-node-1": ("unavailable", "1", None)}
    wait_states(first, "f", wanted)
    assert states(second, "f") == wanted
    # A definition that nobody can read.
    bench.sender.send(bench.topics["functions"], b"{", b"unreadable", [("content-type", b"application/json")])
    bench.sender.flush()
    wait_states(first, "unreadable", {node: ("refused", None, None) for node in ("e2e-node", "e2e-node-1")})
    bench.remove("unreadable")
    wait_states(first, "unreadable", {})
    bench.define(definition("gone", ECHO))
    wait_states(first, "gone", {node: ("loaded", "1", "1") for node in ("e2e-node", "e2e-node-1")})

    # Killed, so that it has no last word; what it said before does not outlive its next start, nor a removal meanwhile.
    second.kill()
    bench.remove("gone")
    wait_states(first, "gone", {"e2e-node-1": ("loaded", "1", "1")})
    second.start()
    second.wait_ready(True)
    wait_states(first, "gone", {})
    wait_states(first, "f", wanted)
    until("the record of what is gone to go", lambda: b"e2e-node-1\0gone" not in live_keys(bench, "function-status"))
    # In order, so that it is not waited for.
    assert second.stop() == 0
    status, _, said = run(first, "function", "deploy", "f", ECHO, "--version", "2")
    assert status == 0 and "every node that is there: e2e-node\n  e2e-node: running\n" in said, said
    assert "kept, from version 1: warm.floor = 1" in said and "forewarm invoke f" in said, said
    assert first.stop() == 0


def without_the_topic(bench):
    """A node whose brokers have no topic of statuses serves, says so, and ends in order; the commands go on without it."""
    bench.make_topics()
    topic = bench.topics["function-status"]
    bench.topics.admin.delete_topics([topic])[topic].result(DEADLINE_S)
    until("the topic to be gone", lambda: not exists(bench, topic))
    service = bench.service(forecast=FORECAST).start()
    service.wait_ready(True)
    service.wait_log("is not told to others")
    results = bench.results()
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo", b"x")).status == "ok"
    status, out, said = run(service, "function", "list")
    assert (status, json.loads(out)["name"]) == (0, "echo") and topic in said, (status, out, said)
    assert run(service, "function", "status")[0] == 1
    assert ask(service, "functions")[0]["state"] == "running"
    assert service.stop() == 0
    bench.topics.create("function-status")


def exists(bench, topic):
    found = bench.topics.admin.list_topics(timeout=DEADLINE_S).topics.get(topic)
    return bool(found and found.partitions)


SCENARIOS = [what_is_so, group_status, without_the_topic]
