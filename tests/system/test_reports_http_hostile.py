"""The companion's API over HTTP and those who do not behave: clients that send too much, too slowly or leave, a warehouse
that is away or stands still."""
import glob
import http.client
import os
import random
import socket
import threading
import time

import psycopg
import pytest
from network import Frozen
from pipeline import wait_for, write_roles
from web import RUNS

ROLES = {"reports": ["nrp_1/01_roles"]}


def test_bodies_and_headers_that_are_too_large_are_refused(web):
    p = web
    def padded(bytes_):
        return ('{"reports": ["nrp_1/01_roles"]' + " " * bytes_)[:bytes_ - 1] + "}"
    assert p.post(padded(65536)).status == 202
    assert p.post(padded(65537)).status == 413 and p.post(padded(600000)).status == 413
    pieces = [padded(70000).encode()[i:i + 7000] for i in range(0, 70000, 7000)]
    assert p.call("POST", RUNS, body=iter(pieces), headers={"Content-Type": "application/json"}).status == 413
    head = f"POST {RUNS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {p.token['run']}\r\nContent-Type: application/json\r\n"
    assert p.send(head + "Content-Length: 99999999\r\n\r\n", close=False).startswith(b"HTTP/1.1 413 ")
    assert p.send(head + "Content-Length: 70000\r\nExpect: 100-continue\r\n\r\n", close=False).startswith(b"HTTP/1.1 413 ")
    assert p.send(f"GET /healthz HTTP/1.1\r\nHost: x\r\nX: {'x' * 60000}\r\n\r\n", close=False).startswith(b"HTTP/1.1 431 ")
    assert p.send(f"GET /{'x' * 60000} HTTP/1.1\r\nHost: x\r\n\r\n", close=False)[:12] in (b"HTTP/1.1 414", b"HTTP/1.1 431")
    # Without an end: it is cut at a megabyte.
    with socket.create_connection(("127.0.0.1", p.port), timeout=60) as s, pytest.raises(OSError):
        s.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        for _ in range(400):
            s.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            time.sleep(0.005)
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 5000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                 b"GET /healthz HTTP/1.1\r\n\r\n", b"POST " + RUNS.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"):
        got = p.send(junk)
        assert got == b"" or got[:9] in (b"HTTP/1.1 ", b"HTTP/1.0 ") and not got[9:12].startswith(b"2"), (junk, got)
    assert p.get("/healthz").status == 200
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 1


def test_requests_with_random_faults_get_an_answer_or_none_and_harm_nobody(make_web):
    """Bytes of good requests are changed, left out, doubled; the server is there for the next one."""
    p = make_web(keys={"request_limit": "100 ms"}).start()
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    chance = random.Random(seed)
    head = f" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {p.token['read']}\r\nConnection: close\r\n"
    good = [f"GET {path}{head}\r\n" for path in ("/", "/metrics", f"{RUNS}?limit=3&state=failed", "/api/v1/reports")]
    good.append(f"POST {RUNS}{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}")
    good.append(f"POST {RUNS}{head}Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")
    statuses = set()
    for _ in range(500):
        text = bytearray(chance.choice(good).encode())
        for _ in range(chance.choice((0, 1, 1, 2, 8))):
            at, few = chance.randrange(len(text) + 1), chance.randrange(1, 12)
            text[at:at + chance.choice((0, 1, few))] = chance.choice((b"", bytes(chance.randrange(256) for _ in range(few)), text[at:at + few] * 3,
                                                                     b"%00", b"\r\n", b"\0", b"99999999999999999999"))
        got = p.send(bytes(text))
        if got:
            assert got[:7] == b"HTTP/1.", got[:100]
            statuses.add(int(got[9:12]))
    assert statuses >= {200, 400, 401, 403, 404} and 500 not in statuses and p.get("/healthz").status == 200
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 0, "that token may not ask"


def drip(p, text, pause, most):
    """Sends a byte at a time; seconds until the other side closed."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", p.port), timeout=60) as s:
        s.settimeout(pause)
        for byte in text:
            assert time.monotonic() - began < most, "still open"
            try:
                s.sendall(bytes([byte]))
                if s.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - began


def test_a_request_that_does_not_get_on_is_cut_and_takes_no_place_from_others(make_web):
    p = make_web(keys={"request_limit": "1500 ms", "connections": 6, "connections_per_address": 6}).start()
    slow_header = f"GET /healthz HTTP/1.1\r\nHost: {'x' * 500}\r\n\r\n".encode()
    slow_body = (f"POST {RUNS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {p.token['run']}\r\nContent-Type: application/json\r\n"
                 f"Content-Length: 500\r\n\r\n" + " " * 500).encode()
    assert 1.2 < drip(p, slow_header, 0.05, 20) < 10
    assert 1.2 < drip(p, slow_body[:-400], 0.01, 20) < 10
    # All places are taken by those who say nothing; a seventh waits until the first of them are cut.
    silent = [socket.create_connection(("127.0.0.1", p.port)) for _ in range(6)]
    wait_for("an answer", lambda: p.is_served(), timeout=30)
    for s in silent:
        s.settimeout(30)
        assert s.recv(1) == b""
        s.close()
    cut = next(line for line in p.get("/metrics").body.decode().splitlines() if line.startswith("rolag_reports_http_cut"))
    assert int(cut.split()[1]) >= 8
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 0


def test_one_address_has_its_share_of_connections(make_web):
    p = make_web(keys={"connections": 20, "connections_per_address": 3}).start()
    held = [socket.create_connection(("127.0.0.1", p.port)) for _ in range(3)]
    def is_refused():
        try:
            p.get("/healthz")
        except (OSError, http.client.HTTPException):
            return True
        return False
    wait_for("the fourth to be refused, once three were taken in", is_refused)
    with socket.create_connection(("127.0.0.1", p.port), source_address=("127.0.0.2", 0)) as other:
        other.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 200 ")
    for s in held:
        s.close()
    wait_for("room", p.is_served)


def test_clients_that_leave_in_the_middle_leave_nothing_behind(web):
    p = web
    def open_files():
        return len(os.listdir(f"/proc/{p.reports.pid}/fd"))
    with p.writing() as conn:
        write_roles(conn, 1, 50)
    run = p.asked(ROLES)
    p.wait_ended(run)
    before = open_files()
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {p.token['run']}\r\n"
    for n in range(60):
        with socket.create_connection(("127.0.0.1", p.port)) as s:
            s.sendall((f"GET {RUNS}/{run}/files/nrp_1/roles.csv {head}\r\n" if n % 3 == 0 else f"GET {RUNS} {head}\r\n" if n % 3 == 1 else
                       f"POST {RUNS} {head}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{").encode())
            if n % 2:
                time.sleep(0.002)
    assert p.reports.lines("a file is sent over HTTP", f"run={run}", "file=nrp_1/roles.csv", "token=run")
    wait_for("their descriptors to be closed", lambda: open_files() <= before)
    assert p.get(f"{RUNS}/{run}/files/nrp_1/roles.csv").status == 200


def quickly(call, most=1.5):
    began = time.monotonic()
    got = call()
    assert time.monotonic() - began < most
    return got


def test_a_large_file_is_sent_beside_everything_else(web):
    """200 MB to one who reads and one who does not: nobody else notices."""
    p = web
    run = p.asked(ROLES)
    p.wait_ended(run)
    size = 200 << 20
    os.truncate(p.path(run, "nrp_1", "roles.csv"), size)
    p.warehouse("update rolag.report_file set bytes = %s where run_id = %s and path = 'nrp_1/roles.csv'", size, run)
    path = f"{RUNS}/{run}/files/nrp_1/roles.csv"
    with socket.create_connection(("127.0.0.1", p.port)) as idle:
        idle.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {p.token['run']}\r\n\r\n".encode())
        got = []
        reader = threading.Thread(target=lambda: got.append(len(p.get(path).body)))
        reader.start()
        while reader.is_alive():
            assert quickly(lambda: p.get("/healthz")).status == 200
        assert got == [size]
        assert idle.recv(12) == b"HTTP/1.1 200"
    with open(f"/proc/{p.reports.pid}/status", encoding="ascii") as f:
        peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
    assert peak < 64 << 10, "kB: it is never in memory"


# ---- a warehouse that is away ----------------------------------------------------------------------------------------

def processes_of(cluster):
    """The server and all its children."""
    with open(os.path.join(cluster.data, "postmaster.pid"), encoding="ascii") as f:
        pid = int(f.readline())
    found = [pid]
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with open(path, encoding="ascii") as f:
            found += [int(word) for word in f.read().split()]
    return found


def test_a_warehouse_that_stands_still_holds_up_nobody(make_web, own_clusters):
    core, warehouse = own_clusters()
    p = make_web(core=core, warehouse=warehouse).start()
    assert p.get("/readyz").status == 200 and p.get(RUNS).status == 200
    with Frozen(processes_of(warehouse)):
        time.sleep(1.5)         # the companion looks at its queue, and waits
        for _ in range(5):
            assert quickly(lambda: p.get("/healthz")).status == quickly(lambda: p.get("/")).status == 200
            assert quickly(lambda: p.get("/api/v1/status")).status == 200
        began = time.monotonic()
        assert p.get(RUNS).status == 503 and time.monotonic() - began < 15
        wait_for("it not to be ready", lambda: quickly(lambda: p.get("/readyz")).status == 503, timeout=30)
        began = time.monotonic()
        assert p.reports.stop() == 0 and time.monotonic() - began < 10, "told to stop, it does not wait for ever"
    p.start_reports()
    wait_for("it to be ready", lambda: p.get("/readyz").status == 200)
    assert p.get(RUNS).status == 200


def test_a_warehouse_that_is_away_is_said_to_be_and_comes_back(make_web, own_clusters):
    core, warehouse = own_clusters()
    p = make_web(core=core, warehouse=warehouse).start()
    assert p.get(RUNS).status == 200
    warehouse.kill9()
    wait_for("it not to be ready", lambda: p.get("/readyz").status == 503)
    got = p.post(ROLES, key="k")
    assert got.status == 503 and got.headers["Retry-After"] and "Idempotency-Key" in got.json["detail"]
    assert quickly(lambda: p.get("/healthz")).status == quickly(lambda: p.get("/api/v1/reports")).status == 200
    warehouse.start()
    wait_for("it to be ready", lambda: p.get("/readyz").status == 200)
    wait_for("the run", lambda: p.post(ROLES, key="k").status == 202)
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 1
    # A session that is ended while nobody asks costs nobody an answer.
    with psycopg.connect(p.warehouse_conninfo, autocommit=True) as conn:
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'rolag reports http'")
    time.sleep(0.3)
    assert p.get(RUNS).status == 200


def test_without_listen_there_is_no_port(make_web):
    p = make_web()
    p.configure({"http": {"listen": ""}})
    super(type(p), p).start_reports()
    p.wait_ready()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", p.port))
    with open("/proc/net/tcp", encoding="ascii") as f:
        inodes = {line.split()[9] for line in f.readlines()[1:] if line.split()[3] == "0A"}
    held = {os.readlink(path)[8:-1] for path in glob.glob(f"/proc/{p.reports.pid}/fd/*") if os.readlink(path).startswith("socket:")}
    assert not inodes & held
