"""Scenarios: what definitions may ask for, what refusing them costs, and who may define and announce whose functions."""

import json
import time

import confluent_kafka
from confluent_kafka.admin import AclOperation, NewTopic, ResourceType

import events
from bench import ECHO, definition
from security import grant, member, permit, start
from streams import BROKER_DEADLINE_S, QUIET

ENDLESS = 2**63 - 1
REFUSED = 400
# Far more than it takes, and far less than a search through the calendar for each schedule did.
STARTED_S = 30


def ceilings(bench):
    """A definition above a ceiling is refused by `deploy` and by the node, with the same words; one at it runs."""
    service = bench.service(limits={"floor-max": 3}).start()
    results = bench.results()
    service.wait_ready(True)
    bench.define(definition("greedy", ECHO, limits={"timeout_ms": ENDLESS}))
    bench.define(definition("many", ECHO, warm={"floor": 4}))
    bench.define(definition("endless", ECHO, retry={"attempts_max": 2**31 - 1, "backoff_ms": 0}))
    bench.define(definition("modest", ECHO, warm={"floor": 3}, limits={"timeout_ms": 900_000}))
    words = {
        "greedy": f"limits.timeout_ms is {ENDLESS}, above the operator's limits.timeout-max of 900000",
        "many": "warm.floor is 4, above the operator's limits.floor-max of 3",
        "endless": "retry.attempts_max is 2147483647, above the operator's limits.attempts-max of 100",
    }
    for name, said in words.items():
        result = results.one(bench.call(name))
        assert result.status == "rejected" and said in result.event["error"]["message"], result.event
    assert results.one(bench.call("modest")).status == "ok"
    file = service.directory / "definition.toml"
    file.write_text(f"[limits]\ntimeout_ms = {ENDLESS}\n[warm]\nfloor = 4\n", encoding="utf-8")
    arguments = ("function", "deploy", "greedy", ECHO, "--definition", file)
    told = service.fails(*arguments)
    assert words["greedy"] in told and words["many"] in told, told
    assert not (service.directory / "artifacts").exists(), "what is refused is not kept"
    assert service.stop() == 0


def refused_cost_nothing(bench):
    """Hundreds of refused definitions with schedules that never begin keep no node from starting, nor a function waiting."""
    service = bench.service(registry={"catch-up-timeout": "5s"})
    results = bench.results()
    # Sixteen that differ, as equal ones are judged once.
    never = [{"cron": f"0 {hour} 31 2 *", "duration_ms": 1_000, "instances": 1} for hour in range(16)]
    for number in range(REFUSED):
        value, headers = events.as_json(events.FUNCTION, definition(f"never-{number}", ECHO, schedules=never))
        bench.sender.send(bench.topics["functions"], value, f"never-{number}".encode(), headers)
    bench.define(definition("good", ECHO))
    began = time.monotonic()
    service.start()
    service.wait_ready(True)
    took_s = time.monotonic() - began
    assert results.one(bench.call("good")).status == "ok"
    assert took_s < STARTED_S, f"ready after {took_s:.1f} s"
    refused = service.log_lines("never begins")
    assert 0 < len(refused) <= REFUSED, f"{len(refused)} lines for {REFUSED} refused definitions"
    assert service.stop() == 0
    return f"ready after {took_s:.1f} s behind {REFUSED} refused definitions"


class Tenant:
    """A client of the brokers with one user's rights."""

    def __init__(self, secure, user):
        self.refused = 0
        settings = {
            "bootstrap.servers": secure["listeners"]["SASL_PLAINTEXT"],
            "security.protocol": "sasl_plaintext",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": secure["password"],
        }
        self.producer = confluent_kafka.Producer({**settings, **QUIET})

    def send(self, topic, value, key, headers=()):
        """Whether the brokers took it."""
        ended = []
        options = {"headers": list(headers), "on_delivery": lambda error, _message: ended.append(error)}
        self.producer.produce(topic, value, key, **options)
        self.producer.flush(BROKER_DEADLINE_S)
        assert len(ended) == 1, "no answer of the brokers"
        if ended[0] is not None:
            assert ended[0].code() == confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED, ended[0]
        return ended[0] is None

    def define(self, topic, changed):
        value, headers = events.as_json(events.FUNCTION, changed)
        return self.send(topic, value, changed["name"].encode(), headers)

    def announce(self, topic, function, **fields):
        """The pre-trigger's id, and whether the brokers took it."""
        event = events.pre_trigger(function, **fields)
        value, headers = events.single_object(events.PRE_TRIGGER, event)
        return event["id"], self.send(topic, value, function.encode(), headers)


def tenant_topics(bench):
    """Tenants with topics of their own neither define, replace, remove nor announce for each other, nor run each other's code."""
    secure = bench.secure_broker().secure
    bench.make_topics()
    named, topics = [], {}
    for tenant in ("acme", "beta"):
        for role, config in (("functions", {"cleanup.policy": "compact"}), ("pre-triggers", {})):
            topics[tenant, role] = f"{bench.name}.{tenant}.{role}"
            new = NewTopic(topics[tenant, role], num_partitions=1, replication_factor=1, config=config)
            (future,) = bench.topics.admin.create_topics([new], operation_timeout=BROKER_DEADLINE_S).values()
            future.result(BROKER_DEADLINE_S)
            permit(bench, "service", ResourceType.TOPIC, topics[tenant, role], AclOperation.READ)
            for right in (AclOperation.READ, AclOperation.WRITE):
                permit(bench, tenant, ResourceType.TOPIC, topics[tenant, role], right)
        # What all share, so that it is the service that has to tell whose a name is.
        for role in ("functions", "pre-triggers"):
            permit(bench, tenant, ResourceType.TOPIC, bench.topics[role], AclOperation.WRITE)
        of = {"functions-topic": topics[tenant, "functions"], "pre-triggers-topic": topics[tenant, "pre-triggers"]}
        named.append({"tenant": tenant, "prefix": f"{tenant}/", **of})
    grant(bench, "service")
    properties = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}

    def node(user):
        # The tenants' are for commands alone: they share the artifacts, and have users of their own.
        made = member(bench, "SASL_PLAINTEXT", {**properties, "sasl.username": user})
        made.environment["FOREWARM__KAFKA__PROPERTIES__SASL_PASSWORD"] = secure["password"]
        made.environment["FOREWARM__TENANTS__NAMED"] = json.dumps(named)
        made.environment["FOREWARM__ARTIFACTS__DIRECTORY"] = str(bench.directory / "artifacts")
        return made

    service, of_acme, of_beta = node("service"), node("acme"), node("beta")
    results, outcomes = bench.results(), bench.outcomes()
    acme, beta = Tenant(secure, "acme"), Tenant(secure, "beta")
    start(service)
    service.wait_ready(True)
    of_acme.command("function", "deploy", "acme/pay", ECHO, "--version", "acme's")

    def version():
        result = results.one(bench.call("acme/pay", b"x"))
        assert result.status == "ok", result.event
        return result.event["function_version"]

    assert version() == "acme's"
    assert (bench.directory / "artifacts" / "acme").is_dir()
    # Define, replace, remove: in the tenant's topic the brokers say no, elsewhere the service does.
    evil = definition("acme/pay", ECHO, version="beta's", artifact=artifact("store:acme"))
    assert not beta.define(topics["acme", "functions"], evil)
    of_beta.fails("function", "deploy", "acme/pay", ECHO)
    of_beta.fails("function", "remove", "acme/pay")
    for topic in (bench.topics["functions"], topics["beta", "functions"]):
        assert beta.define(topic, evil) and beta.send(topic, None, b"acme/pay")
        # A name that nobody has yet is no more for it to take.
        assert beta.define(topic, definition("acme/new", ECHO, artifact=artifact("store:acme")))
    assert beta.define(topics["beta", "functions"], definition("shared", ECHO))
    wait_for_lines(service, "a record is passed over", 7)
    assert version() == "acme's"
    for name in ("acme/new", "shared"):
        assert results.one(bench.call(name)).event["error"]["code"] == "unknown_function", name
    # The code of another by its digest: by address it is refused, and in its own folder it is not there.
    for number, (topic, uri, name) in enumerate(
        (
            (topics["beta", "functions"], "store:acme", "beta/steal-1"),
            (topics["beta", "functions"], "store:", "beta/steal-2"),
            (bench.topics["functions"], "store:acme", "steal-3"),
        )
    ):
        assert beta.define(topic, definition(name, ECHO, artifact=artifact(uri))), number
        result = results.one(bench.call(name))
        assert result.status == "rejected" and "artifact.uri" in result.event["error"]["message"], result.event
    assert beta.define(topics["beta", "functions"], definition("beta/steal-4", ECHO, artifact=artifact("store:beta")))
    result = results.one(bench.call("beta/steal-4", deadline=events.now_ms() + 2_000))
    assert result.status == "rejected", result.event
    # Announce: the same, and a notice is withdrawn only from where it came.
    notice, taken = acme.announce(topics["acme", "pre-triggers"], "acme/pay", source="shop", window_ms=60_000)
    assert taken
    assert not beta.announce(topics["acme", "pre-triggers"], "acme/pay")[1]
    refusals = [
        (bench.topics["pre-triggers"], {}, "other_tenant"),
        (topics["beta", "pre-triggers"], {}, "other_tenant"),
        (bench.topics["pre-triggers"], {"tenant": "acme", "source": "shop", "id": notice, "expected_invocations": 0}, "other_tenant"),
        (bench.topics["pre-triggers"], {"source": "function:acme/order"}, "source_reserved"),
    ]
    for topic, fields, criterion in refusals:
        id, taken = beta.announce(topic, "acme/pay", **fields)
        assert taken
        if id == notice:
            continue
        event = outcomes.one(id)
        assert (event["kind"], event["criterion"]) == ("refused", criterion), event
    acme.announce(topics["acme", "pre-triggers"], "acme/pay", source="shop", id=notice, expected_invocations=0)
    until = time.monotonic() + 30
    # What was said of it first is the refusal of the other one's withdrawal.
    while not any(event["kind"] == "withdrawn" for event in list(outcomes.kept[notice])):
        assert time.monotonic() < until, outcomes.kept[notice]
        time.sleep(0.05)
    assert service.stop() == 0
    for future in bench.topics.admin.delete_topics(list(topics.values())).values():
        future.result(BROKER_DEADLINE_S)
    return "7 records passed over, 4 definitions and 3 notices refused"


def artifact(uri):
    return {**definition("any", ECHO)["artifact"], "uri": uri}


def wait_for_lines(service, words, count):
    until = time.monotonic() + 60
    while len(service.log_lines(words)) < count:
        service.check_running()
        assert time.monotonic() < until, f"{len(service.log_lines(words))} of {count} lines with {words!r}:\n{service.log_tail()}"
        time.sleep(0.05)


SCENARIOS = [ceilings, refused_cost_nothing, tenant_topics]
