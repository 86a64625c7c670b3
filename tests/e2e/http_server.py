"""A small HTTP server in this process that answers in JSON: for what stands in for somebody else's service.

It must not know what is asked.
"""

import http.server
import json
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """The base of what answers: `do_GET` and `do_POST` are its children's."""

    protocol_version = "HTTP/1.1"
    content_type = "application/json"

    def body(self):
        return self.rfile.read(int(self.headers["content-length"]))

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", self.content_type)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server:
    """Serves on a port of its own until it is closed; with TLS where there is a context for it."""

    def __init__(self, handler, context=None):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        if context:
            # A client that does not believe the certificate ends the handshake, and no more.
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
