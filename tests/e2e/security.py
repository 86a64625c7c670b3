"""Scenarios: how the service gets to a broker that lets not everybody in, and what it does where it is not let in.

Each runs at a broker of its own kind (scripts/kafka start --secure), to which the test itself speaks in plain.
"""

import time

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from bench import ECHO, Skipped, definition
from brokers import Watch
from delivery import settle
from identity_provider import IdentityProvider
from streams import BROKER_DEADLINE_S

# What the service needs of each of its topics; what is read may be described too, and what is written as well.
RIGHTS = {
    "pre-triggers": [AclOperation.READ],
    "guest-notices": [AclOperation.READ, AclOperation.WRITE],
    "invocations": [AclOperation.READ],
    "results": [AclOperation.WRITE],
    "dead-letters": [AclOperation.WRITE],
    "functions": [AclOperation.READ],
    "pre-trigger-outcomes": [AclOperation.WRITE],
    "forecast-snapshots": [AclOperation.READ, AclOperation.WRITE],
}
# A service that is not let in may write so much and no more, and may work so much, in the time that it is watched.
WATCHED_S = 4
LOG_LINES_MAX = 20
CPU_SHARE_MAX = 0.25
# The broker lets nobody renew within a second of the last time.
TOKEN_LIFE_S = 10


def tls_scram(bench):
    """SASL_SSL with SCRAM-SHA-512: calls are answered, and the password is nowhere to be read."""
    secure = bench.secure_broker().secure
    properties = {"security.protocol": "sasl_ssl", "sasl.mechanism": "SCRAM-SHA-512", "ssl.ca.location": secure["ca"]}
    return with_password(bench, "SASL_SSL", secure["password"], properties)


def sasl_plain(bench):
    """SASL with PLAIN, without TLS: the same."""
    secure = bench.secure_broker().secure
    properties = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}
    return with_password(bench, "SASL_PLAINTEXT", secure["password"], properties)


def with_password(bench, listener, password, properties):
    """1,000 calls by a service that has its password from the environment and logs all that it can."""
    properties = properties | {"debug": "broker,security,conf"}
    service = member(bench, listener, properties, password, telemetry={"log-filter": "debug"})
    grant(bench, "service")
    told = thousand_calls(bench, service)
    assert service.log_lines("DEBUG"), "nothing was logged at debug, so this shows nothing"
    assert not service.log_lines(password), "the password stands in the log"
    shown = service.command("check-config")
    assert "sasl.password" in shown and password not in shown, shown
    return told


def oauthbearer(bench):
    """SASL with OAUTHBEARER: tokens of an identity provider, renewed before they end; the secret is nowhere to be read."""
    secure = bench.secure_broker().secure
    secret = secure["password"]
    provider = IdentityProvider("service", secret, TOKEN_LIFE_S)
    bench.closing.callback(provider.close)
    properties = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": provider.url,
        "sasl.oauthbearer.client.id": "service",
        "sasl.oauthbearer.scope": "kafka",
        "debug": "broker,security,conf",
    }
    service = member(bench, "SASL_PLAINTEXT", properties, telemetry={"log-filter": "debug"})
    file = service.directory / "client-secret"
    file.write_text(f"{secret}\n", encoding="utf-8")
    service.environment["FOREWARM__KAFKA__PROPERTY_FILES__SASL_OAUTHBEARER_CLIENT_SECRET"] = str(file)
    grant(bench, "service")
    start(service)
    results = bench.results(keep=False)
    bench.define(definition("echo", ECHO))
    results.wait_all([bench.call("echo", b"x") for _ in range(500)], 60)
    service.wait_ready(True)
    # One token a client so far; each of them renews its own.
    until, first = time.monotonic() + 20 * TOKEN_LIFE_S, provider.given
    while provider.given < 3 * first:
        service.check_running()
        assert not service.not_ready(), f"while its tokens are renewed: {service.not_ready()}"
        assert time.monotonic() < until, f"{provider.given} tokens, {first} of them the first ones"
        time.sleep(0.05)
    results.wait_all([bench.call("echo", b"x") for _ in range(500)], 60)
    assert service.log_lines("DEBUG"), "nothing was logged at debug, so this shows nothing"
    assert not service.log_lines(secret), "the client's secret stands in the log"
    shown = service.command("check-config")
    assert "sasl.oauthbearer.client.secret" in shown and secret not in shown, shown
    assert service.stop() == 0
    settle(bench, results)
    assert set(results.statuses) == {"ok"} and results.count == 1_000, (results.count, results.statuses)
    assert provider.refused == 0, provider.refused
    return f"1000 calls, {provider.given} tokens of {TOKEN_LIFE_S} s"


def mtls(bench):
    """A client certificate is the way in; a service without one says so, waits, and goes when it is told to."""
    secure = bench.secure_broker().secure
    properties = {"security.protocol": "ssl", "ssl.ca.location": secure["ca"]}
    client = secure["client"]
    known = {"ssl.certificate.location": client["certificate"], "ssl.key.location": client["key"]}
    service = member(bench, "SSL", properties | known)
    grant(bench, client["principal"])
    told = thousand_calls(bench, service)
    return f"{told}; without one: {stays_out(member(bench, 'SSL', properties), 'certificate')}"


def wrong_password(bench):
    """A service with the wrong password says so, is not ready, neither spins nor floods, and tells nobody the password."""
    bench.secure_broker()
    bench.make_topics()
    properties = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}
    wrong = "almost-the-right-one"
    service = member(bench, "SASL_PLAINTEXT", properties, wrong)
    told = stays_out(service, "uthentication")
    assert not service.log_lines(wrong), service.log_lines(wrong)
    return told


def stays_out(service, word):
    """What a service does that is not let in: it says why, waits, is not ready, and ends when it is told to."""
    start(service)
    wait_for_word(service, word)
    told = watch_outside(service)
    began = time.monotonic()
    status = service.stop()
    took_s = time.monotonic() - began
    assert took_s < 10, f"it took {took_s:.0f} s to end"
    assert status == 0, f"ended with status {status}:\n{service.log_tail()}"
    return f"{told}, ended in {took_s:.1f} s"


def acl_denied(bench):
    """A service that may not write results keeps every call, says what it may not, and goes on as soon as it may."""
    secure = bench.secure_broker().secure
    properties = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}
    service = member(bench, "SASL_PLAINTEXT", properties, secure["password"])
    grant(bench, "service", without="results")
    start(service)
    results, outcomes = bench.results(keep=False), bench.outcomes()
    bench.define(definition("echo", ECHO))
    topic, ids, told, ready = bench.topics["results"], [], [], False
    # At first it may not even see that there is such a topic; then it may see and not write.
    for right in (AclOperation.DESCRIBE, AclOperation.WRITE):
        ids += [bench.call("echo", b"x") for _ in range(500)]
        bench.sender.flush()
        wait_for_word(service, topic, "uthoriz")
        told.append(watch_outside(service))
        # What goes to another topic is stored, which should not make it ready.
        outcomes.one(bench.announce("nobody"))
        ready = ready or is_ready_within(service, 1)
        assert not results.seen, f"{len(results.seen)} results that nobody was allowed to write"
        permit(bench, "service", ResourceType.TOPIC, topic, right)
    began = time.monotonic()
    results.wait_all(ids, 60)
    took_s = time.monotonic() - began
    service.wait_ready(True)
    assert service.stop() == 0
    settle(bench, results)
    assert len(results.seen) == len(ids) and set(results.statuses) == {"ok"}, results.statuses
    assert not ready, "ready after the outcome of a pre-trigger was stored, while no result could be"
    return f"{'; '.join(told)}; {len(ids)} answered {took_s:.1f} s after it may, {results.duplicates()} duplicates"


def wait_for_word(service, *words):
    """Waits for a line of its log in which all the words are."""
    until = time.monotonic() + 30
    while not any(all(word in line for word in words) for line in service.log_lines()):
        service.check_running()
        assert time.monotonic() < until, f"no line with {words} in its log:\n{service.log_tail()}"
        time.sleep(0.05)


def is_ready_within(service, seconds):
    """Whether it says so at any time from now on."""
    until = time.monotonic() + seconds
    while service.not_ready():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def watch_outside(service):
    """A service that cannot do its work is not ready all the time, does not flood its log, and does not spin."""
    watch = Watch(service)
    while watch.lasts_s() < WATCHED_S:
        service.check_running()
        assert service.not_ready(), f"ready, and not let in:\n{service.log_tail()}"
        watch.look()
        time.sleep(0.05)
    lines, cpu_share, _ = watch.end()
    told = f"{lines} lines of log and {cpu_share:.0%} of a core in {WATCHED_S} s"
    assert lines <= LOG_LINES_MAX and cpu_share <= CPU_SHARE_MAX, f"{told}:\n{service.log_tail()}"
    return told


def member(bench, listener, properties, password=None, **changes):
    """A service that comes by this listener, not started. Its password is in its environment alone."""
    secure = bench.run.secure_broker.secure
    if password:
        properties = properties | {"sasl.username": secure["user"]}
    properties = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "1000", **properties}
    kafka = {"bootstrap-servers": secure["listeners"][listener]}
    service = bench.service(**{"kafka": kafka, "kafka.properties": properties, **changes})
    if password:
        service.environment["FOREWARM__KAFKA__PROPERTIES__SASL_PASSWORD"] = password
    return service


def start(service):
    """Starts it and waits until it serves or says why it does not; skips where it was built without what that needs."""
    service.start()
    until = time.monotonic() + 60
    while not service.log_lines("forewarm serves") and not service.log_lines("kafka does not work"):
        if service.process.poll() is not None and service.log_lines("available at build time"):
            service.kill()
            raise Skipped("the service was built without it: see scripts/features")
        service.check_running()
        assert time.monotonic() < until, f"no word of it:\n{service.log_tail()}"
        time.sleep(0.05)


def thousand_calls(bench, service):
    """1,000 calls through a service that is let in; it ends in order."""
    start(service)
    results = bench.results(keep=False)
    bench.define(definition("echo", ECHO))
    ids = [bench.call("echo", b"x") for _ in range(1_000)]
    results.wait_all(ids, 60)
    service.wait_ready(True)
    assert service.stop() == 0
    settle(bench, results)
    assert set(results.statuses) == {"ok"} and results.count == len(ids), (results.count, results.statuses)
    return f"{len(ids)} calls"


def grant(bench, user, without=None):
    """Gives a user what the service needs."""
    for role, operations in RIGHTS.items():
        for operation in operations:
            if role != without:
                permit(bench, user, ResourceType.TOPIC, bench.topics[role], operation)
    permit(bench, user, ResourceType.GROUP, bench.name, AclOperation.READ)


def permit(bench, user, kind, name, operation):
    allow = AclPermissionType.ALLOW
    right = (kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, allow)
    (future,) = bench.topics.admin.create_acls([AclBinding(*right)]).values()
    future.result(BROKER_DEADLINE_S)
    # Written down is not yet known: the broker hears of it a moment later.
    until = time.monotonic() + BROKER_DEADLINE_S
    while not bench.topics.admin.describe_acls(AclBindingFilter(*right)).result(BROKER_DEADLINE_S):
        assert time.monotonic() < until, f"{user} is not allowed to {operation} {name}"
        time.sleep(0.02)


SCENARIOS = [tls_scram, sasl_plain, oauthbearer, mtls, wrong_password, acl_denied]
