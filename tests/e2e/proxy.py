"""A proxy before a broker, which can swallow what the members of groups say and hear, while everything else gets through.

It must not change a byte of what it lets through.
"""

import contextlib
import socket
import struct
import threading

# Requests that only a member of a group makes, of its coordinator, on a connection of their own: OffsetCommit, JoinGroup,
# Heartbeat, SyncGroup, ConsumerGroupHeartbeat (https://kafka.apache.org/protocol#protocol_api_keys).
OF_MEMBERS = {8, 11, 12, 14, 68}


class Connection:
    """One client's connection, and the one to the broker behind it."""

    def __init__(self, proxy, client):
        self.proxy, self.client = proxy, client
        self.broker = socket.create_connection(proxy.broker, timeout=30)
        self.is_of_a_member = False
        self.client_id = ""
        for pump in (self.requests, self.responses):
            threading.Thread(target=pump, daemon=True).start()

    def close(self):
        for end in (self.client, self.broker):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def let_through(self):
        """Waits while this connection is one of those that are swallowed."""
        if self.is_of_a_member:
            self.proxy.open.wait()

    def requests(self):
        with contextlib.suppress(OSError, EOFError, struct.error):
            while True:
                head = exactly(self.client, 4)
                (length,) = struct.unpack(">i", head)
                request = exactly(self.client, length)
                api_key, _version, _correlation_id, id_length = struct.unpack_from(">hhih", request)
                self.client_id = request[10 : 10 + max(id_length, 0)].decode("utf-8", "replace")
                self.is_of_a_member = self.is_of_a_member or api_key in OF_MEMBERS
                self.let_through()
                self.broker.sendall(head + request)
        self.close()

    def responses(self):
        with contextlib.suppress(OSError):
            while data := self.broker.recv(65_536):
                self.let_through()
                if self.is_of_a_member and self.client_id == self.proxy.unheard:
                    self.proxy.heard.wait()
                self.client.sendall(data)
        self.close()


def exactly(connection, count):
    data = bytearray()
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


class Proxy:
    """Listens on a port of its own, and forwards to the broker's."""

    def __init__(self, broker_port):
        self.broker = ("127.0.0.1", broker_port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = []
        # Set while members are let through.
        self.open = threading.Event()
        self.open.set()
        # The client whose members' answers wait until this is set.
        self.unheard = None
        self.heard = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                try:
                    self.connections.append(Connection(self, client))
                except OSError:
                    client.close()

    def swallow_members(self):
        self.open.clear()

    def let_members_through(self):
        self.open.set()

    def keep_answers_from(self, client_id):
        """The members of this client are heard by the broker, and hear nothing."""
        self.heard.clear()
        self.unheard = client_id

    def let_answers_through(self):
        self.unheard = None
        self.heard.set()

    def close(self):
        self.open.set()
        self.heard.set()
        self.listener.close()
        for connection in self.connections:
            connection.close()
