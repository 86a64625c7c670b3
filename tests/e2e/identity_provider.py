"""An identity provider in this process: gives short-lived tokens to the one client that knows its secret.

Nobody signs the tokens, which the test's broker is content with (OAUTHBEARER's unsecured JSON Web Signatures, RFC 7515, A.5).
It must not serve anything else.
"""

import base64
import http.server
import json
import threading
import time


class IdentityProvider:
    """Serves on a port of its own until it is closed."""

    def __init__(self, client, secret, life_s):
        self.given = 0
        self.refused = 0
        expected = "Basic " + base64.b64encode(f"{client}:{secret}".encode()).decode()
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                if self.path != "/token" or self.headers["authorization"] != expected:
                    provider.refused += 1
                    return self.answer(401, {"error": "invalid_client"})
                provider.given += 1
                answer = {"access_token": token(client, life_s), "token_type": "Bearer", "expires_in": life_s}
                return self.answer(200, answer)

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def token(subject, life_s):
    def part(content):
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    now = int(time.time())
    claims = {"sub": subject, "iat": now, "exp": now + life_s, "scope": "kafka"}
    return f"{part({'alg': 'none'})}.{part(claims)}."
