"""A proxy between a client of PostgreSQL and its server that loses the answer to a COMMIT."""
import os
import select
import socket
import threading


class CommitProxy(threading.Thread):
    """Listens on a socket in `folder`; `lose()` arms it: the next COMMIT reaches the server (or, with
    reach=False, does not), and the client never hears of it, as both ends are closed."""


    def __init__(self, folder, server):
        super().__init__(daemon=True)
        self.server = server
        os.makedirs(folder, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(folder, ".s.PGSQL.5432"))
        self.listener.listen()
        self.armed = None       # or True, False: does the COMMIT reach the server?
        self.lost = 0

    def lose(self, reach):
        self.armed = reach

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

    @staticmethod
    def commit_at(data):
        """Where the Bind of "commit" begins, or -1."""
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
