"""An identity provider in this process: gives short-lived tokens to the one client that knows its secret.

Nobody signs the tokens, which the test's broker is content with (OAUTHBEARER's unsecured JSON Web Signatures, RFC 7515, A.5).
It must not serve anything else.
"""

import base64
import json
import time

from http_server import Handler, Server


class IdentityProvider(Server):
    """Serves on a port of its own until it is closed."""

    def __init__(self, client, secret, life_s):
        self.given = 0
        self.refused = 0
        expected = "Basic " + base64.b64encode(f"{client}:{secret}".encode()).decode()
        provider = self

        class Tokens(Handler):
            def do_POST(self):
                self.body()
                if self.path != "/token" or self.headers["authorization"] != expected:
                    provider.refused += 1
                    return self.answer(401, {"error": "invalid_client"})
                provider.given += 1
                answer = {"access_token": token(client, life_s), "token_type": "Bearer", "expires_in": life_s}
                return self.answer(200, answer)

        super().__init__(Tokens)
        self.url += "/token"


def token(subject, life_s):
    def part(content):
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    now = int(time.time())
    claims = {"sub": subject, "iat": now, "exp": now + life_s, "scope": "kafka"}
    return f"{part({'alg': 'none'})}.{part(claims)}."
