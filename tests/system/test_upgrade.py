"""A new program over what old ones left: tests/data/upgrade has it, made by them (its README says how).

The old ones' core is made again: the same rows, object ids, system identifier and positions; then each pipeline goes on from
its ledger, and is judged by the oracle. And the other way: what a newer program left is refused, and stays as it is.
"""
import gzip
import hashlib
import json
import os
import shutil
import struct
import sys
import tarfile
import tempfile

import psycopg
import pytest
import xxhash

from cluster import Cluster
import spool_peek
from mirrors import difference
from pipeline import (PERMANENT, ROOT, Pipeline, entity, lsn, prepare_judge, read_counters, wait_for, write_payment,
                      write_role)

FIXTURE = os.path.join(ROOT, "tests", "data", "upgrade")
sys.path.insert(0, FIXTURE)

import make  # noqa: E402

LATEST = len([n for n in os.listdir(os.path.join(ROOT, "apply", "sql")) if n.endswith(".sql")])
AGAIN = """insert into {table} select id, sequence + 1, event_type, event, context, now() from {table} e
    where sequence = (select max(sequence) from {table} where id = e.id) order by id limit {count}"""


def read(*names):
    with gzip.open(os.path.join(FIXTURE, *names), "rt", encoding="utf-8") as f:
        return f.read()


with open(os.path.join(FIXTURE, "meta.json"), encoding="utf-8") as meta:
    META = json.load(meta)


def crc32c(data):
    """PostgreSQL's checksum of its control file."""
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def become(cluster, system_id):
    """A stopped server takes another one's system identifier, the first field of its control file."""
    path = os.path.join(cluster.data, "global", "pg_control")
    with open(path, "r+b") as f:
        data = bytearray(f.read())
        at = next(n for n in range(8, 512, 4) if struct.unpack_from("=I", data, n)[0] == crc32c(data[:n]))
        struct.pack_into("=Q", data, 0, int(system_id))
        struct.pack_into("=I", data, at, crc32c(data[:at]))
        f.seek(0)
        f.write(data)
    cluster._run("pg_resetwal", "-D", cluster.data)


class Upgraded(Pipeline):
    """A pipeline of the fixture, as the old program left it; `version`: of the control schema it has."""

    def __init__(self, version, core, warehouse, folder, suffix):
        self.version, self.made = version, 3 if version == 4 else version   # no program had 4: 3 went to 5
        name = f"up{self.made}"
        pack = os.path.join(folder, "pack")
        make.write_pack(pack, version >= 3)
        super().__init__(name, folder, core, warehouse, warehouse, pack=pack)
        self.core_database, self.warehouse_database, self.judge_database = "lana", f"w{version}{suffix}", f"j{version}{suffix}"
        self.core_conninfo = core.conninfo()
        self.warehouse_conninfo = warehouse.conninfo(self.warehouse_database)
        os.makedirs(self.state_dir)
        self.settings = make.settings(self.made, self.state_dir, pack, self.core_conninfo.replace("'", ""),
                                      self.warehouse_conninfo.replace("'", ""))
        self.configure({"capture": {"heartbeat_interval": "200 ms"}})
        make.write_reports(self.state_dir)
        with tarfile.open(os.path.join(FIXTURE, f"v{self.made}", "state.tar.gz")) as tar:
            tar.extractall(self.state_dir)
        os.chmod(os.path.join(self.state_dir, "spool"), 0o700)
        warehouse.psql(f"create database {self.warehouse_database}", database="postgres")
        warehouse.psql(f"create database {self.judge_database} template judge_template", database="postgres")
        path = os.path.join(folder, "warehouse.sql")
        with open(path, "w", encoding="utf-8") as f:
            f.write(read(f"v{self.made}", "warehouse.sql.gz"))
        warehouse.psql(file=path, database=self.warehouse_database)
        if version == 4:
            with open(os.path.join(ROOT, "apply", "sql", "004_reports.sql"), encoding="utf-8") as f:
                warehouse.psql(f.read() + "; insert into rolag.migration values (4, 'none')", database=self.warehouse_database)

    def landed(self):
        return make.LAND

    def findings(self, latest=True):
        """But that definition 2 has another type for one column."""
        return [f for f in super().findings(latest) if (f.what, f.column, self.changed()) != (
            "column of another type", "amount", "numeric")]

    def changed(self):
        """The type of what definition 2 changed."""
        return self.warehouse(f"select atttypid::regtype::text from pg_attribute where attrelid = 'raw.{make.CHANGED}'::regclass "
                              "and attname = 'amount'")[0][0]

    def control(self):
        """{table: its rows as text}, of the control schema."""
        with psycopg.connect(self.warehouse_conninfo, autocommit=True) as conn:
            names = [n for n, in conn.execute("select tablename from pg_tables where schemaname = 'rolag' order by 1")]
            return {n: {r for r, in conn.execute(f"select to_jsonb(t)::text from rolag.{n} t")} for n in names}

    def landed_rows(self):
        """A digest of all that is landed."""
        with psycopg.connect(self.warehouse_conninfo, autocommit=True) as conn:
            names = [n for n, in conn.execute("select tablename from pg_tables where schemaname = 'raw' order by 1")]
            return {n: conn.execute(f"select count(*), md5(string_agg(t::text, '|' order by t::text)) from raw.{n} t").fetchone()
                    for n in names}

    def syncs(self):
        return dict(self.warehouse("select name, sync_lsn::text from rolag.relation where beside is null"))

    def drop(self, *_):
        """The databases go with their clusters."""


class Estate:
    """The old ones' core as it was when they were stopped, and a warehouse."""

    def __init__(self, folder, warehouse):
        self.folder, self.warehouse, self.made = folder, warehouse, []
        prepare_judge(warehouse)
        self.core = Cluster("core", settings={**make.CORE, "max_wal_size": "256MB"})
        self.core.create()
        for name in ("core.sql", "core_data.sql"):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as f:
                f.write(read(name + ".gz"))
            self.core.psql(file=path)
            if name == "core.sql":
                identity = hashlib.sha256(self.core.psql(make.IDENTITY).encode()).hexdigest()
                assert identity == META["identity"], "another PostgreSQL gives other ids: see tests/data/upgrade/README.md"
        self.core.stop()
        become(self.core, META["system_id"])
        self.core.start()
        assert self.core.psql("select system_identifier from pg_control_system()") == META["system_id"]
        for name in META["pipelines"]:
            self.core.psql(f"select pg_create_logical_replication_slot('rolag_{name}', 'pgoutput')")
        while lsn(self.core.psql("select pg_current_wal_lsn()")) <= lsn(META["end"]):
            self.core.psql("select pg_create_restore_point('advance'), pg_switch_wal()")
        for name, was in META["pipelines"].items():
            self.core.psql(f"select pg_replication_slot_advance('rolag_{name}', '{was['confirmed']}')")
            assert self.core.psql("select confirmed_flush_lsn from pg_replication_slots where slot_name = "
                                  f"'rolag_{name}'") == was["confirmed"]

    def pipeline(self, version, suffix=""):
        p = Upgraded(version, self.core, self.warehouse, tempfile.mkdtemp(prefix=f"v{version}-", dir=self.folder), suffix)
        self.made.append(p)
        return p

    def close(self):
        for p in self.made:
            for process in p.processes:
                process.kill9()
        self.core.destroy()


@pytest.fixture(scope="module")
def estate(tmp_path_factory, warehouse_cluster):
    made = Estate(str(tmp_path_factory.mktemp("upgrade")), warehouse_cluster)
    yield made
    made.close()


_events = iter(range(100, 100_000, 10))


def write_events(estate, mirrored="x1"):
    """Of entities that the old program knew, and of new ones."""
    first = next(_events)
    with psycopg.connect(estate.core.conninfo()) as conn:
        for table in ("core_customer_events", "core_deposit_events", "core_role_events"):
            conn.execute(AGAIN.format(table=table, count=5))
        for n in range(first, first + 5):
            write_role(conn, n, 1)
            write_role(conn, n, 2)
        write_payment(conn, first)
        conn.execute("insert into core_public_ids values (%s, gen_random_uuid(), now())", (f"n{first}",))
        conn.execute("update core_public_ids set target_id = gen_random_uuid() where id = %s", (mirrored,))


def kept(before, after):
    """The rows that are not there any more with all that they held. (006 moved what mirrors had in one column.)"""
    lost = []
    for table, rows in before.items():
        now = [json.loads(r) for r in after[table]]
        for row in map(json.loads, rows):
            if table == "relation" and row["kind"] == "mirror" and "published" not in row:
                row["published"], row["fingerprint"] = row["fingerprint"], None
            if not any(row.items() <= n.items() if not any(isinstance(v, (list, dict)) for v in row.values()) else
                       all(n.get(k) == v for k, v in row.items()) for n in now):
                lost.append((table, row))
    return lost


@pytest.mark.parametrize("version", [4, 1, 2, 3, 5, 6, 7])     # 4 takes the slot of 3 for a while
def test_an_old_programs_state_goes_on(estate, version):
    if version == 4:
        estate.core.psql("select pg_copy_logical_replication_slot('rolag_up3', 'kept')")
    p = estate.pipeline(version)
    before, rows, was = p.control(), p.landed_rows(), p.applied()
    assert was == lsn(META["pipelines"][p.name]["applied"]) and max(
        json.loads(r)["number"] for r in before["migration"]) == version

    # Not before init: the new one says what to do, and writes nothing.
    code, out, err = p.run("status")
    assert code == 1 and out.startswith("Stopped: "), out + err
    if version < LATEST:
        p.start_apply()
        assert p.apply.wait() == PERMANENT
        assert p.apply.lines("control schema is version %d, this program needs %d" % (version, LATEST), "mend: rolag init")
        code, out, _ = p.run("check")
        assert code == 1 and "rolag init" in out
        p.apply = None
    assert (p.control(), p.landed_rows()) == (before, rows)

    # Migrated: every row is as it was.
    out = p.init()
    assert ("control schema rolag is now at version %d" % LATEST in out) is (version < LATEST), out
    after = p.control()
    assert kept(before, after) == [] and p.landed_rows() == rows
    assert {json.loads(r)["number"] for r in after["migration"]} == set(range(1, LATEST + 1))
    syncs = p.syncs()

    # It goes on from the ledger, with the spool that is there; nothing is read anew, no row made anew.
    p.start_capture()
    p.start_apply()
    write_events(estate)
    p.wait_applied()
    assert p.apply.lines("writing to the warehouse", "applied=" + META["pipelines"][p.name]["applied"])
    # But for a mirror of before version 6, whose mark of how it was published has another form.
    assert not p.capture.lines("gap") and not p.apply.lines("gap") and not [
        n for n, at in p.syncs().items() if at != syncs[n] and (n != "core_public_ids" or version >= 6)]
    p.assert_equal()
    assert p.warehouse(f"select count(*) from raw.{make.ROLE} where _lsn > %s", META["pipelines"][p.name]["applied"])[0][0] > 0
    assert p.warehouse(f"select count(*) from raw.{make.ROLE} where _lsn <= %s", META["pipelines"][p.name]["applied"]) == [
        (rows[make.ROLE][0],)]
    if version >= 2:
        assert difference(p, "core_public_ids") == ""
        the_quarantine_goes_on(p)
    if version >= 3:
        the_rebuild_can_be_undone(p)
    if version >= 5:
        the_reports_go_on(p, before)
    assert p.run("spool", "verify")[0] == 0
    p.stop()
    if version == 4:
        estate.core.psql("select pg_drop_replication_slot('rolag_up3')")
        estate.core.psql("select pg_copy_logical_replication_slot('kept', 'rolag_up3'), pg_drop_replication_slot('kept')")


def the_quarantine_goes_on(p):
    """The entity that waited waits, and can be let go of."""
    code, out, err = p.run("quarantine", "list")
    assert code in (0, 1) and entity(2) in out, out + err
    code, out, err = p.run("quarantine", "skip", make.POISONED, entity(2), "--reason", "upgrade")
    assert code == 0, out + err
    wait_for("it to be skipped", lambda: p.warehouse("select state from rolag.quarantine where id = %s", entity(2)) == [
        ("skipped",)])


def the_rebuild_can_be_undone(p):
    assert p.changed() == "numeric"
    code, out, err = p.run("rebuild", make.CHANGED, "--undo")
    assert code == 0 and p.changed() == "bigint", out + err
    p.wait_applied()
    p.assert_equal()


def the_reports_go_on(p, before):
    run, = (json.loads(r) for r in before["report_run"])
    code, out, err = p.run("report", "show", run["id"], "--json")
    assert code == 0 and json.loads(out)["state"] == "published", out + err
    companion = p.start_role("reports")
    code, out, err = p.run("report", "run", "--accept-quarantine", "--wait")
    assert code == 0 and "published" in out, out + err
    assert companion.stop() == 0
    assert p.warehouse("select state, count(*) from rolag.report_run group by 1") == [("published", 2)]


def test_the_old_states_are_of_all_versions():
    """Whoever adds a migration makes the state of the version before it first."""
    made = sorted(int(n[1:]) for n in os.listdir(FIXTURE) if n[0] == "v" and n[1:].isdigit())
    assert made == [n for n in range(1, LATEST + 1) if n != 4]


# ---- the other way -----------------------------------------------------------------------------------

COMMANDS = [["init"], ["sync", "--all"], ["quarantine", "list"], ["quarantine", "retry", "--all"], ["verify"],
            ["verify", "--repair"], ["rebuild", make.CHANGED], ["report", "list"], ["report", "run"], ["story", entity(1)],
            ["status", "--tables"]]


@pytest.fixture(scope="module")
def newest(estate):
    """The latest state, migrated, not running."""
    p = estate.pipeline(LATEST, "newest")
    estate.core.psql(f"select pg_replication_slot_advance('rolag_{p.name}', pg_current_wal_lsn())")
    p.init()
    return p


def test_a_newer_control_schema_is_refused_by_all_and_stays_as_it_is(newest):
    newest.warehouse("insert into rolag.migration (number, program) values (%s, 'rolag of tomorrow')", LATEST + 1)
    try:
        before = (newest.control(), newest.landed_rows())
        words = f"control schema is version {LATEST + 1}, this program knows {LATEST}"
        for role in ("apply", "reports"):
            process = newest.start_role(role)
            assert process.wait() == PERMANENT and process.lines(words, "mend: run the newer program"), process.text()
        for command in COMMANDS:
            code, out, err = newest.run(*command)
            assert code == PERMANENT and words in out + err, (command, code, out, err)
        code, out, _ = newest.run("check")
        assert code == 1 and words in out
        assert (newest.control(), newest.landed_rows()) == before
    finally:
        newest.warehouse("delete from rolag.migration where number = %s", LATEST + 1)


def digest(folder):
    found = {}
    for name in sorted(os.listdir(folder)):
        if name != "lock":
            with open(os.path.join(folder, name), "rb") as f:
                found[name] = hashlib.sha256(f.read()).hexdigest()
    return found


def last_frame(data):
    """Where it begins, and the salt of its segment."""
    at, salt = 0, 0
    while True:
        size = spool_peek.HEADER.size + struct.unpack_from(">I", data, at + 16)[0]
        if at == 0:
            salt = spool_peek.pb.Segment.FromString(bytes(data[spool_peek.HEADER.size:size])).salt
        if at + size >= len(data):
            return at, salt
        at += size


def forge(path, offset, value):
    """The last frame with another byte in its header and the right checksum: as a newer program would have it."""
    with open(path, "rb") as f:
        data = bytearray(f.read())
    at, salt = last_frame(data)
    assert xxhash.xxh3_64_intdigest(bytes(data[at + 8:]), seed=salt) == struct.unpack_from(">Q", data, at)[0]
    data[at + offset] = value
    struct.pack_into(">Q", data, at, xxhash.xxh3_64_intdigest(bytes(data[at + 8:]), seed=salt))
    with open(path, "wb") as f:
        f.write(data)


@pytest.mark.parametrize("what, offset, value", [("version", 12, 2), ("kind", 13, 9), ("flag", 15, 0x40)])
def test_a_newer_spool_is_refused_and_stays_as_it_is(newest, what, offset, value):
    """By its reader, and by the writer, which would begin behind what it cannot read."""
    del what
    spool = os.path.join(newest.state_dir, "spool")
    shutil.copytree(spool, spool + ".kept")
    try:
        forge(os.path.join(spool, max(n for n in os.listdir(spool) if n.endswith(".seg"))), offset, value)
        files, rows = digest(spool), newest.landed_rows()
        for role in ("apply", "capture"):
            process = newest.start_role(role)
            assert process.wait() == PERMANENT and process.lines("was written by a newer version of this program"), process.text()
        code, out, err = newest.run("spool", "verify")
        assert code == 1 and "newer version" in out + err
        assert (digest(spool), newest.landed_rows()) == (files, rows)
    finally:
        shutil.rmtree(spool)
        os.rename(spool + ".kept", spool)


def test_state_of_another_version_is_not_taken_for_ours(newest):
    """Counters with another number of fields, and a word of apply's in a form that nobody knows: as if they were not there."""
    for role in ("capture", "apply"):
        path = os.path.join(newest.state_dir, role + ".counters")
        with open(path, "r+b") as f:
            data = f.read()
            f.write(bytes(8 * 7))       # seven more
            f.seek(8)
            f.write(struct.pack("<I", struct.unpack_from("<I", data, 8)[0] + 7))
    code, out, err = newest.run("status")
    assert code == 1 and "no counters" in out, out + err
    code, out, err = newest.run("status", "--prometheus")
    assert "rolag_up" in out, out + err
    with open(os.path.join(newest.state_dir, "spool", "applied"), "r+b") as f:
        data = bytearray(f.read())
        for at in (0, 512):
            if len(data) >= at + 56:
                struct.pack_into(">I", data, at + 12, 3)
                struct.pack_into(">Q", data, at, xxhash.xxh3_64_intdigest(bytes(data[at + 8:at + 56])))
        f.seek(0)
        f.write(data)
    newest.start_capture()
    newest.start_apply()
    newest.wait_applied()
    wait_for("counters of ours", lambda: read_counters(os.path.join(newest.state_dir, "apply.counters")).get("pid")
             == newest.apply.pid)
    newest.assert_equal()
    newest.stop()
