"""What `scripts/kafka start --secure` adds to a broker: TLS, client certificates, SASL users, and access rights.

Beside its plain listener, whose clients may do everything, it has one listener a protocol: SASL_PLAINTEXT (PLAIN, and
OAUTHBEARER with tokens that nobody signs), SASL_SSL (SCRAM-SHA-512, PLAIN) and SSL (client certificates required). Their users may do what access control lists allow, which is
nothing at first. Everything is made for this one broker and good for a few days; `secure.json` in its directory says what
a client has to know. It must not start anything but openssl.
"""

import json
import secrets
import shutil
import subprocess

LISTENERS = ("SASL_PLAINTEXT", "SASL_SSL", "SSL")
USER = "service"
# Others, with the same password, who come by SASL with PLAIN alone.
TENANTS = ("acme", "beta")
# Named by the certificate's subject.
CLIENT = "CN=forewarm-client"
DAYS = "3"

SETTINGS = """\
# A listener has its protocol's name, and the controller's own needs saying.
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}
ssl.keystore.type=PEM
ssl.keystore.location={tls}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={tls}/ca.crt
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN,OAUTHBEARER
listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config={oauth}
listener.name.sasl_plaintext.plain.sasl.jaas.config={plain}
listener.name.sasl_ssl.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config={plain}
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
# Who comes by the plain listener, which is the test itself, and the controller.
super.users=User:ANONYMOUS
"""


def secure(directory, ports):
    """Makes certificates and a password; settings to add, and the arguments that storage is formatted with."""
    password = secrets.token_hex(16)
    tls = directory / "tls"
    shutil.rmtree(tls, ignore_errors=True)
    tls.mkdir(mode=0o700)
    certificates(tls)
    told = {
        "listeners": {name: f"127.0.0.1:{port}" for name, port in zip(LISTENERS, ports, strict=True)},
        "user": USER,
        "password": password,
        "ca": str(tls / "ca.crt"),
        "client": {"principal": CLIENT, "certificate": str(tls / "client.crt"), "key": str(tls / "client.key")},
    }
    (directory / "secure.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    oauth = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
    users = " ".join(f'user_{user}="{password}"' for user in (USER, *TENANTS))
    modules = {
        "plain": f"{module} required {users};",
        "oauth": f'{oauth} required unsecuredLoginStringClaim_sub="broker";',
    }
    protocols = ",".join(f"{name}:{name}" for name in ("PLAINTEXT", *LISTENERS))
    settings = SETTINGS.format(protocols=protocols, tls=tls, **modules)
    return settings, ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={password}]"]


def certificates(tls):
    """A certificate authority, and what it signs for the broker and for one client."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=tls, check=True, capture_output=True, text=True)

    fresh = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *fresh, "-keyout", "ca.key", "-out", "ca.crt", "-days", DAYS, "-subj", "/CN=forewarm-test-ca")
    for name, subject, usage in (
        ("server", "/CN=localhost", "extendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n"),
        ("client", f"/{CLIENT}", "extendedKeyUsage=clientAuth\n"),
    ):
        (tls / f"{name}.ext").write_text(usage, encoding="ascii")
        openssl("req", "-new", *fresh, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        signer = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        files = ("-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", f"{name}.ext")
        openssl("x509", "-req", *files, *signer, "-days", DAYS)
    # The broker wants its key and its certificate in one file.
    whole = (tls / "server.key").read_text(encoding="ascii") + (tls / "server.crt").read_text(encoding="ascii")
    (tls / "server.pem").write_text(whole, encoding="ascii")
