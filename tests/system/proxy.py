"""A proxy between a client of PostgreSQL and its server that loses the answer to a COMMIT.

A batch's COMMIT is a prepared statement, a takeover's a plain query: either can be chosen.
"""
import os
import select
import socket
import threading


class CommitProxy(threading.Thread):
    """Listens on a socket in `folder`; `lose()` arms it: the next COMMIT reaches the server (or, with
    reach=False, does not), and the client never hears of it, as both ends are closed. With shut=True new
    connections are then let in no further, until `open()`."""

    def __init__(self, folder, server):
        super().__init__(daemon=True)
        self.server = server
        os.makedirs(folder, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(folder, ".s.PGSQL.5432"))
        self.listener.listen()
        self.armed = None       # or True, False: does the COMMIT reach the server?
        self.takeover = self.shut = False
        self.way = threading.Event()
        self.way.set()
        self.lost = 0

    def lose(self, reach, takeover=False, shut=False):
        self.takeover, self.shut, self.armed = takeover, shut, reach

    def open(self):
        self.way.set()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def serve(self, client):
        with client, socket.socket(socket.AF_UNIX) as server:
            try:
                self.way.wait()
                server.connect(self.server)
                while self.pass_on(client, server):
                    pass
            except OSError:
                pass

    def pass_on(self, client, server):
        """One round; False when the connection is over."""
        ready, _, _ = select.select([client, server], [], [])
        if client in ready:
            data = client.recv(65536)
            at = self.commit_at(data)
            if self.armed is not None and at >= 0:
                reach, self.armed = self.armed, None
                if self.shut:
                    self.way.clear()
                if reach:
                    server.sendall(data)
                    self.wait_idle(server)
                else:
                    server.sendall(data[:at])
                self.lost += 1
                return False
            server.sendall(data)
            if not data:
                return False
        if server in ready:
            data = server.recv(65536)
            client.sendall(data)
            return bool(data)
        return True

    def commit_at(self, data):
        """Where the Bind of "commit", or the query COMMIT, begins, or -1."""
        if self.takeover:
            return data.find(b"Q\0\0\0\x0bCOMMIT\0")
        at = data.find(b"\0commit\0")
        return at - 5 if at >= 5 and data[at - 5:at - 4] == b"B" else -1

    @staticmethod
    def wait_idle(server):
        """Until the server says ReadyForQuery, idle: it has committed, and had the answer sent."""
        tail = b""
        while not tail.endswith(b"Z\0\0\0\5I"):
            data = server.recv(65536)
            if not data:
                return
            tail = (tail + data)[-6:]
