"""TLS to both databases, verify-full, with an authority of the test's: a replication connection and all others are
encrypted; a server that is not proved gets nothing, is named, and nothing is lost meanwhile."""
import json
import os
import shutil
import socket
import subprocess

import pytest

from pipeline import SOME, Bank, wait_for

def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


class Authority:
    """A certificate authority in a folder, and the server certificates that it signs."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.root = os.path.join(self.folder, "root.crt")
        openssl(self.folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority",
                "-keyout", "root.key", "-out", "root.crt")
        with open(os.path.join(self.folder, "ca.conf"), "w", encoding="ascii") as f:
            f.write("[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=index\nserial=serial\ncertificate=root.crt\n"
                    "private_key=root.key\ndefault_md=sha256\npolicy=p\nunique_subject=no\ncopy_extensions=copy\n[p]\n"
                    "commonName=supplied\n")
        with open(os.path.join(self.folder, "index"), "w", encoding="ascii"):
            pass
        with open(os.path.join(self.folder, "serial"), "w", encoding="ascii") as f:
            f.write("01\n")

    def sign(self, host, expired=False):
        """(certificate, key) of a server of that name."""
        name = host + (".expired" if expired else "")
        openssl(self.folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={host}", "-addext",
                f"subjectAltName=DNS:{host}", "-keyout", name + ".key", "-out", name + ".csr")
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"] if expired else ["-days", "2"]
        openssl(self.folder, "ca", "-batch", "-config", "ca.conf", *dates, "-in", name + ".csr", "-out", name + ".crt")
        return tuple(os.path.join(self.folder, name + end) for end in (".crt", ".key"))


def give(cluster, pair):
    """The server shows this certificate from now on."""
    for path, name, mode in zip(pair, ("server.crt", "server.key"), (0o644, 0o600)):
        to = os.path.join(cluster.data, name)
        shutil.copy(path, to + ".new")
        os.chmod(to + ".new", mode)
        if cluster.demote:
            os.chown(to + ".new", cluster.demote["user"], cluster.demote["group"])
        os.replace(to + ".new", to)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """(the bank's, one that nobody knows)."""
    return Authority(tmp_path_factory.mktemp("bank")), Authority(tmp_path_factory.mktemp("other"))


class Closed:
    """A pipeline whose servers let nobody in over the network without TLS."""

    def __init__(self, make_pipeline, clusters, authority):
        self.clusters, self.authority = clusters, authority
        for name, c in clusters.items():
            c.stop()
            c.port = free_port()
            give(c, authority.sign(name + ".bank"))
            c.configure({"listen_addresses": "127.0.0.1", "ssl": "on", "wal_level": "logical"})
            with open(os.path.join(c.data, "pg_hba.conf"), "w", encoding="ascii") as f:
                f.write("local all all trust\nhostssl all all 127.0.0.1/32 trust\n")
            c.start()
        self.p = make_pipeline(core=clusters["core"], warehouse=clusters["warehouse"], land=SOME)
        self.connect()

    def connect(self, **wrong):
        """The configuration as it should be, or with parameters of the connection to one database altered."""
        for name, database in (("core", self.p.core_database), ("warehouse", self.p.warehouse_database)):
            parts = {"host": name + ".bank", "hostaddr": "127.0.0.1", "port": self.clusters[name].port, "dbname": database,
                     "user": "postgres", "sslmode": "verify-full", "sslrootcert": self.authority.root, **wrong.get(name, {})}
            self.p.configure({name: {"connect": " ".join(f"{k}={v}" for k, v in parts.items())}})

    def note(self, role):
        return json.loads(self.p.run("status", "--json")[1])["roles"][role]["note"] or ""


@pytest.fixture
def closed(make_pipeline, own_clusters, authorities):
    core, warehouse = own_clusters()
    return Closed(make_pipeline, {"core": core, "warehouse": warehouse}, authorities[0])


def test_everything_is_encrypted_the_replication_connection_too(closed):
    p = closed.p
    bank = Bank(p.core_conninfo, seed=3)
    bank.live(50)
    p.init()
    p.start()
    bank.live(200)
    p.wait_applied()
    code, out, err = p.run("check")
    assert code == 0, out + err
    for name, least in (("core", 2), ("warehouse", 1)):     # the walsender, custody; apply
        seen = closed.clusters[name].psql(
            "select count(*) || ' ' || bool_and(s.ssl) || ' ' || bool_and(s.version like 'TLSv1._') from pg_stat_ssl s "
            "join pg_stat_activity a using (pid) where application_name like 'rolag%'", database="postgres").split(" ")
        assert int(seen[0]) >= least and seen[1:] == ["true", "true"], (name, seen)
    assert closed.clusters["core"].psql("select s.ssl from pg_stat_replication r join pg_stat_ssl s using (pid)",
                                        database="postgres") == "t"


CASES = {
    "authority": "certificate verify failed",
    "host": "does not match host name",
    "expired": "certificate verify failed",
    "unencrypted": "no pg_hba.conf entry",
}


@pytest.mark.parametrize("side, role", [("core", "capture"), ("warehouse", "apply")])
@pytest.mark.parametrize("case", CASES)
def test_a_server_that_is_not_proved_gets_nothing_and_nothing_is_lost(closed, authorities, side, role, case):
    p = closed.p
    p.init()
    p.start()
    bank = Bank(p.core_conninfo, seed=3)
    bank.live(100)
    p.wait_applied()
    p.stop()
    if case == "authority":
        closed.connect(**{side: {"sslrootcert": authorities[1].root}})
    elif case == "host":
        closed.connect(**{side: {"host": "another.bank"}})
    elif case == "unencrypted":
        closed.connect(**{side: {"sslmode": "disable"}})
    else:
        give(closed.clusters[side], closed.authority.sign(side + ".bank", expired=True))
        closed.clusters[side].reload()
    bank.live(100)
    code, out, err = p.run("check")
    assert code != 0 and CASES[case] in out + err
    process = p.start_role(role)
    if case == "unencrypted":       # the server's word: a person must act
        assert process.wait() == 100
    wait_for("the role to say why", lambda: CASES[case] in closed.note(role))
    assert side in closed.note(role)
    if case != "unencrypted":
        assert process.running()    # it waits for a certificate that is right
    if case == "expired":           # which is all that it needs
        give(closed.clusters[side], closed.authority.sign(side + ".bank"))
        closed.clusters[side].reload()
        wait_for("the role to go on by itself", lambda: CASES[case] not in closed.note(role))
    if process.running():
        process.signal(15)
        assert process.wait() == 0
    closed.connect()
    p.start_capture()
    p.start_apply()
    p.wait_applied()
    for rollup in SOME:
        source = rollup.removesuffix("_rollup")
        assert p.warehouse(f"select count(*) from raw.{rollup}") == p.core(f"select count(*) from {source}")
