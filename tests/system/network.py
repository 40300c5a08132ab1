"""Faults from outside: a network between rolag and a server, a disk and a clock under it.

Link: a TCP proxy on 127.0.0.1 in front of a server's socket, which can be cut, stalled and slowed.
Island: a network namespace with such a proxy, whose packets can get lost.
Shim: a library that is preloaded into a role (shim.c).
"""
import errno
import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))


class Link:
    """`Link.to(cluster).conninfo(database)` leads to the cluster's server as long as nothing is wrong."""

    @staticmethod
    def to(cluster):
        return Link(os.path.join(cluster.socket, f".s.PGSQL.{cluster.port}"))

    def __init__(self, server):
        self.server = server
        self.port, self.listening = 0, False
        self.take_port()
        self.open, self.pace = set(), 0.0       # client sockets; seconds that each piece takes
        self.flow = threading.Event()
        self.flow.set()
        self.lock = threading.Lock()
        self.mend()

    def conninfo(self, database, user="postgres"):
        return f"host=127.0.0.1 port={self.port} dbname={database} user={user}"

    # what can happen to it --------------------------------------------------------------------
    def cut(self):
        """Every connection is reset, new ones are refused."""
        if self.listening:
            self.listening = False
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.take_port()
        self.reset()

    def reset(self):
        """Every connection is reset; new ones find their way."""
        with self.lock:
            for client in self.open:
                try:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def stall(self):
        """Nothing arrives, in either direction, and nobody is told; nothing is lost either."""
        self.flow.clear()

    def slow(self, seconds):
        """Every piece takes so long."""
        self.pace = seconds

    def mend(self):
        """Everything as it was."""
        self.pace = 0.0
        self.flow.set()
        if not self.listening:
            self.listening = True
            self.listener.listen()
            threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def close(self):
        self.mend()
        self.cut()
        self.listener.close()

    # how it works -----------------------------------------------------------------------------
    def take_port(self):
        """The port stays ours while nothing listens there: who connects is refused."""
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000)
        with self.lock:
            self.open.add(client)
        with client, socket.socket(socket.AF_UNIX) as server:
            try:
                self.flow.wait()
                server.connect(self.server)
                back = threading.Thread(target=self.pump, args=(server, client), daemon=True)
                back.start()
                self.pump(client, server)
                back.join()
            except OSError:
                pass
            finally:
                with self.lock:
                    self.open.discard(client)

    def pump(self, from_, to):
        try:
            while True:
                data = from_.recv(65536)
                if self.pace:
                    time.sleep(self.pace)
                self.flow.wait()
                if not data:
                    break
                to.sendall(data)
        except OSError:
            pass
        for end in (from_, to):     # PostgreSQL never closes one direction only
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Island:
    """A network of its own for some processes, of which only a loopback exists: `conninfo` leads from there to
    the cluster. With the loopback down, packets get lost, and nobody is told: no FIN, no RST. For `Process`,
    `command(…)` is the command that runs on the island. Needs root."""

    def __init__(self, cluster):
        server = os.path.join(cluster.socket, f".s.PGSQL.{cluster.port}")
        self.process = subprocess.Popen(["unshare", "--net", sys.executable, os.path.abspath(__file__), server],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def conninfo(self, database, user="postgres"):
        return f"host=127.0.0.1 port={self.port} dbname={database} user={user}"

    def command(self, *words):
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *words]

    def tell(self, word):
        print(word, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline().strip() == word

    def cut(self):
        self.tell("down")

    def mend(self):
        self.tell("up")

    def close(self):
        self.process.kill()
        self.process.wait()


def live_on_island(server):
    """The process on an Island: a Link, and orders from stdin."""
    up, get, set_ = 1, 0x8913, 0x8914       # IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS

    def loopback(state):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            flags, = struct.unpack_from("h", fcntl.ioctl(s, get, struct.pack("16sh14x", b"lo", 0)), 16)
            flags = flags | up if state == "up" else flags & ~up
            fcntl.ioctl(s, set_, struct.pack("16sh14x", b"lo", flags))

    loopback("up")
    link = Link(server)
    print(link.port, flush=True)
    for line in sys.stdin:
        loopback(line.strip())
        print(line.strip(), flush=True)


class Shim:
    """`env`: for the roles whose disk (below `below`) and clock are to misbehave when told."""

    FIELDS = ("write_error", "sync_error", "create_error", "delay_ms", "clock_us", "short_bytes", "hits")

    def __init__(self, folder, below):
        library = os.path.join(folder, "shim.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-D_GNU_SOURCE", "-o", library,
                        os.path.join(HERE, "shim.c"), "-ldl"], check=True)
        control = os.path.join(folder, "shim.control")
        with open(control, "wb") as f:
            f.write(bytes(8 * len(self.FIELDS)))
        with open(control, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 0)
        self.env = {"LD_PRELOAD": library, "FAULTS_FILE": control, "FAULTS_BELOW": below}

    def set(self, **fields):
        for name, value in fields.items():
            struct.pack_into("q", self.map, 8 * self.FIELDS.index(name), value)

    def get(self, name):
        return struct.unpack_from("q", self.map, 8 * self.FIELDS.index(name))[0]

    def full(self):
        """The disk is full: half of the next write fits."""
        self.set(write_error=errno.ENOSPC, create_error=errno.ENOSPC, short_bytes=100)

    def read_only(self):
        self.set(write_error=errno.EROFS, create_error=errno.EROFS)

    def mend(self):
        self.set(**dict.fromkeys(self.FIELDS, 0))


class Frozen:
    """These processes stand still for a while."""

    def __init__(self, pids):
        self.pids = list(pids)

    def __enter__(self):
        for pid in self.pids:
            self.send(pid, signal.SIGSTOP)
        return self

    def __exit__(self, *_):
        for pid in self.pids:
            self.send(pid, signal.SIGCONT)

    @staticmethod
    def send(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    live_on_island(sys.argv[1])
