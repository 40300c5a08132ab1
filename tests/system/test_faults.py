"""Faults from outside: servers, network, disk and clock. During each, `rolag status` says what is wrong; after
each, the warehouse has every row, once, as the oracle has it."""
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time

import psycopg
import pytest
from cluster import Cluster
from network import Frozen, Island, Link, Shim
from pipeline import PERMANENT, SOME, TEMPORARY, TIMEOUT, lsn, wait_for, write_roles
from program import ROLAG
from test_kills import freeze_in_flight

SEED = int(os.environ.get("ROLAG_SEED", 1))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and network namespaces need root")


@pytest.fixture(scope="module")
def servers():
    """(core, warehouse) of these tests, which survive kill -9."""
    settings = {"fsync": "on", "full_page_writes": "on", "wal_sync_method": "fdatasync", "max_connections": 30,
                "superuser_reserved_connections": 0, "wal_sender_timeout": "6s"}
    with Cluster("core", settings=settings) as core, Cluster("warehouse", settings=settings) as warehouse:
        yield core, warehouse


class World:
    """A pipeline whose connections are Links and whose disk and clock are a Shim's, under load."""

    def __init__(self, p):
        self.p, self.load, self.banks = p, None, 0
        self.to_core, self.to_warehouse = Link.to(p.core_cluster), Link.to(p.warehouse_cluster)
        p.configure({"core": {"connect": self.to_core.conninfo(p.core_database)},
                     "warehouse": {"connect": self.to_warehouse.conninfo(p.warehouse_database)}})
        self.shim = Shim(p.folder, os.path.join(p.state_dir, "spool"))
        p.env = self.shim.env

    def begin(self, rate=200):
        self.p.init()
        self.p.start()
        return self.write(rate)

    def write(self, rate=200):
        before = self.p.counters().get("apply_events_total", 0)
        self.banks += 1
        self.load = self.p.load_in_background("--seed", SEED + self.banks, "--events", 100_000, "--rate", rate,
                                              "--reconnect", 120)
        wait_for("some rows", lambda: self.p.counters().get("apply_events_total", 0) > before + 50)
        return self

    def link(self, name):
        return {"core": self.to_core, "warehouse": self.to_warehouse}[name]

    def cluster(self, name):
        return {"core": self.p.core_cluster, "warehouse": self.p.warehouse_cluster}[name]

    def status(self):
        """As `rolag status` says it, on the roles' own clock."""
        done = subprocess.run([ROLAG, "status", "--json", "--config", self.p.config], capture_output=True, text=True,
                              check=False, env={**os.environ, **self.p.env})
        said = json.loads(done.stdout)
        assert said["healthy"] == (done.returncode == 0)
        return said

    def says(self, state, *words, timeout=TIMEOUT):
        """Until the status is this, and its sentence has these words."""
        said = {}

        def look():
            said.update(self.status())
            return said["state"] == state and all(w in said["sentence"] for w in words)
        try:
            wait_for(f"the status {state} {words}", look, timeout, pause=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {said.get('state')}: {said.get('sentence')}") from None
        return said["sentence"]

    def end_load(self):
        if self.load is not None:
            self.load.signal(signal.SIGTERM)    # it ends between transactions
            self.load.summary()
            self.load = None

    def finish(self):
        """Whatever it was, it is mended: every row, once, and the status says that all is well."""
        p = self.p
        self.end_load()
        p.wait_applied()
        assert p.rows() == p.events()
        p.assert_equal()
        wait_for("a healthy status", lambda: self.status()["healthy"], pause=0.2)
        p.stop()

    def close(self):
        self.shim.mend()
        self.to_core.close()
        self.to_warehouse.close()


@pytest.fixture
def make_world(make_pipeline, servers):
    made = []

    def make(settings=None, core=None, warehouse=None):
        world = World(make_pipeline(settings, core or servers[0], warehouse or servers[1], land=SOME))
        made.append(world)
        return world
    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world):
    return make_world().begin()


SIDES = pytest.mark.parametrize("side", ["core", "warehouse"])


# ---- servers ----------------------------------------------------------------------------------------

@SIDES
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_server_is_away(world, side, how):
    cluster = world.cluster(side)
    cluster.kill9() if how == "killed" else cluster.stop("fast")
    world.says("stalled", f"no connection to the {side}", "Last word")
    cluster.start()
    world.finish()


@SIDES
def test_a_server_is_restarted_again_and_again(world, side):
    for mode in ("fast", "immediate", "fast"):
        world.cluster(side).restart(mode)
    world.finish()


@SIDES
def test_our_backends_stand_still(world, side):
    with psycopg.connect(world.cluster(side).conninfo("postgres"), autocommit=True) as conn:
        pids = [pid for pid, in conn.execute("select pid from pg_stat_activity where application_name like 'rolag %'")]
    with Frozen(pids):
        world.says("stalled", "behind", *["the warehouse does not answer: "] * (side == "warehouse"))
    world.finish()


@SIDES
def test_a_server_is_slow(world, side):
    """Every process of it stands still for nine tenths of the time."""
    cluster = world.cluster(side)
    for _ in range(15):
        with Frozen(cluster._children(cluster.process.pid)):
            time.sleep(0.18)
        time.sleep(0.02)
        world.p.check_alive()
    world.finish()


@pytest.fixture
def small_disk():
    """small_disk(megabytes): a folder that is a disk of that size."""
    made = []

    def make(megabytes):
        folder = tempfile.mkdtemp(prefix="rolag-disk-", dir="/tmp")     # PostgreSQL's user must get there
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "rolag-test", folder], check=True)
        made.append(folder)
        return folder
    yield make
    for folder in made:
        subprocess.run(["umount", "--lazy", folder], check=True)
        os.rmdir(folder)


def fill(folder):
    """Takes what is left of the disk; returns the file that does."""
    path = os.path.join(folder, "ballast")
    with open(path, "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(1 << 16))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path


class Eater:
    """Takes every connection that a server has left, and then those that rolag had."""

    def __init__(self, cluster):
        self.conninfo, self.eaten = cluster.conninfo("postgres"), []

    def __enter__(self):
        self.conn = psycopg.connect(self.conninfo, autocommit=True)
        return self

    def eat(self):
        """Ours are ended; whoever is quicker has their places."""
        self.conn.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                          "where application_name like 'rolag %'")
        for more in ({}, {"replication": "database"}):      # which have places of their own
            try:
                while True:
                    self.eaten.append(psycopg.connect(self.conninfo, autocommit=True, **more))
            except psycopg.OperationalError:
                pass

    def __exit__(self, *_):
        for conn in [self.conn, *self.eaten]:
            conn.close()


@SIDES
def test_others_have_taken_all_connections(world, side):
    with Eater(world.cluster(side)) as eater:
        def refused():
            eater.eat()
            said = world.status()
            return said["state"] == "stalled" and f"no connection to the {side}" in said["sentence"] and \
                any(reason in said["sentence"] for reason in ("too many clients", "max_wal_senders"))
        wait_for("the status to say that there is no room", refused, pause=1)
        world.p.check_alive()
    world.finish()


@as_root
def test_the_cores_disk_is_full(make_world, small_disk):
    """It refuses what needs room, or stops. Whatever it took before and behind that is in the warehouse."""
    disk = small_disk(500)
    settings = {"max_wal_size": "64MB", "min_wal_size": "32MB", "wal_sender_timeout": "6s"}
    with Cluster("core", settings=settings, parent=disk) as cluster:
        world = make_world(core=cluster).begin()
        ballast = fill(disk)

        def refuses():
            try:
                with psycopg.connect(world.p.core_conninfo, connect_timeout=5) as conn:
                    conn.execute("insert into core_roles select gen_random_uuid(), repeat(md5(n::text), 100), now() "
                                 "from generate_series(1, 5000) n")
                return False
            except psycopg.OperationalError as error:       # DiskFull is one of them
                return str(error)
        print(wait_for("the core to refuse a transaction", refuses))
        wait_for("a status", lambda: world.p.check_alive() or world.status()["state"])
        os.unlink(ballast)
        if cluster.process.poll() is not None or not cluster.is_ready():
            cluster.kill9()
            cluster.start()
        seen = world.p.counters()["apply_events_total"]
        wait_for("the load to go on", lambda: world.p.check_alive() or
                 world.p.counters()["apply_events_total"] > seen + 50)
        world.finish()
        world.p.release()       # while its cluster is there


@as_root
@pytest.mark.parametrize("side", ["warehouse"])
def test_a_servers_disk_is_full(make_world, small_disk, side):
    """Its log cannot go on: it stops all that write, or itself."""
    disk = small_disk(500)
    settings = {"max_wal_size": "64MB", "min_wal_size": "32MB", "wal_sender_timeout": "6s"}
    with Cluster(side, settings=settings, parent=disk) as cluster:
        world = make_world(**{side: cluster}).begin()
        ballast = fill(disk)
        said = world.says("stalled")
        print(said)
        os.unlink(ballast)
        if cluster.process.poll() is not None or not cluster.is_ready():
            cluster.kill9()
            cluster.start()
        world.finish()
        world.p.release()       # while its cluster is there


# ---- network ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("sides", [["core"], ["warehouse"], ["core", "warehouse"]], ids="+".join)
def test_the_network_is_cut(world, sides):
    for side in sides:
        world.link(side).cut()
    world.says("stalled", "no connection to " + ("core and warehouse" if len(sides) > 1 else "the " + sides[0]),
               "Connection refused")
    for side in sides:
        world.link(side).mend()
    world.finish()


@SIDES
def test_the_network_stalls_and_goes_on(world, side):
    """Nothing comes, and nobody is told; then everything comes."""
    world.link(side).stall()
    world.says("stalled", "behind", *["the warehouse does not answer: nor does it let anybody in"] * (side == "warehouse"))
    world.link(side).mend()
    world.finish()


def test_the_network_is_slow_and_breaks(world):
    rng = random.Random(SEED)
    for link in (world.to_core, world.to_warehouse):
        link.slow(0.05)
    for _ in range(10):
        time.sleep(rng.random() * 0.5)
        rng.choice([world.to_core, world.to_warehouse]).reset()
        world.p.check_alive()
    for link in (world.to_core, world.to_warehouse):
        link.mend()
    world.finish()


@as_root
@SIDES
def test_packets_get_lost_and_nobody_is_told(make_world, side):
    """Half-open: no FIN, no RST. Found by tcp_user_timeout and the roles' own patience."""
    world = make_world()
    p, role = world.p, {"core": "capture", "warehouse": "apply"}[side]
    island = Island(world.cluster(side))
    try:
        world.begin()
        process = getattr(p, role)
        assert process.stop() == 0
        config = p.config + ".island"
        database = p.core_database if side == "core" else p.warehouse_database
        p.write_config(config, {**p.settings, side: {"connect": island.conninfo(database)}})
        process = type(process)(role, island.command(ROLAG, role, "--config", config), process.log, p.env)
        p.processes.append(process)
        setattr(p, role, process)
        p.wait_applied()
        island.cut()
        world.says("stalled", "no connection to the " + side, "Last word")
        island.mend()
        world.finish()
    finally:
        island.close()


# ---- disk -------------------------------------------------------------------------------------------

DISKS = {
    "full": ({"write_error": errno.ENOSPC, "create_error": errno.ENOSPC, "short_bytes": 60}, "No space left"),
    "read-only": ({"write_error": errno.EROFS, "create_error": errno.EROFS}, "Read-only file system"),
    "sync fails": ({"sync_error": errno.EIO}, "Input/output error"),
}


@pytest.mark.parametrize("what", DISKS)
def test_the_spools_disk_is_bad(world, what):
    """Capture ends (it is started again by whoever started it), and says why; what it had, it has."""
    fields, reason = DISKS[what]
    world.shim.set(**fields)
    assert world.p.capture.wait() == TEMPORARY
    sentence = world.says("stopped", "capture is not running", reason)
    assert world.p.state_dir in sentence
    for _ in range(2):      # it does not get better by trying; what a person must mend is said so
        assert world.p.start_capture().wait() == (PERMANENT if what == "read-only" else TEMPORARY)
    world.says("stopped", "capture is not running", reason)
    assert world.p.apply.running() and world.shim.get("hits") > 0
    world.shim.mend()
    world.p.start_capture()
    world.finish()


def test_the_spools_disk_is_slow(world):
    world.shim.set(delay_ms=700)
    time.sleep(4)
    wait_for("a status", lambda: world.p.check_alive() or world.status()["state"] in ("live", "catching_up"))
    world.shim.mend()
    world.finish()


@as_root
def test_the_spools_disk_is_really_full(make_world, small_disk):
    """Less than the reserve is left: capture waits. Nothing is left: it ends, and goes on when there is."""
    disk = small_disk(24)
    world = make_world({"spool": {"dir": os.path.join(disk, "spool"), "reserve": "4 MB", "segment_size": "1 MB"}})
    world.begin()
    ballast = fill(disk)
    world.says("spool_full", "Disk full", "free space there")
    assert world.p.running() and world.p.apply.stop() == 0
    world.p.start_apply()
    assert world.p.capture.stop() in (0, TEMPORARY)     # what it had not written, it gets again
    assert world.p.start_capture().wait() == TEMPORARY
    world.says("stopped", "No space left")
    os.unlink(ballast)
    world.p.start_capture()
    world.finish()


# ---- clock ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_the_clock_jumps(world, seconds):
    world.shim.set(clock_us=seconds * 1_000_000)
    world.p.wait_applied()

    def told():
        said = world.status()["sentence"]
        return said.startswith("Clocks differ") and ("future" if seconds < 0 else "old") in said
    wait_for("the status to name the clocks", told, pause=0.2)
    for role in ("capture", "apply"):
        getattr(world.p, role).kill9()
        world.p.start_role(role)
    world.p.capture, world.p.apply = world.p.processes[-2:]
    world.p.wait_applied()
    world.shim.mend()
    world.p.wait_applied()
    world.finish()


# ---- copies -----------------------------------------------------------------------------------------

def copy(cluster):
    """A stopped server's folder, as it is now."""
    subprocess.run(["cp", "-a", cluster.data, cluster.data + ".copy"], check=True)


# All that is in one of the tables, without a word of it.
CONTENT = f"select md5(string_agg(t::text, '|' order by t::text)) from raw.{SOME[3]} t"


def put_back(cluster):
    shutil.rmtree(cluster.data)
    os.rename(cluster.data + ".copy", cluster.data)


@pytest.mark.parametrize("apply_", ["goes on", "is new"])
def test_a_warehouse_from_a_copy_whose_gap_the_spool_still_has(make_world, apply_):
    """The ledger is behind what the core was told to forget; `spool.retain` has it."""
    world = make_world({"spool": {"retain": "10 min"}}).begin()
    p, warehouse = world.p, world.p.warehouse_cluster
    warehouse.stop()
    copy(warehouse)
    warehouse.start()
    held = p.applied()
    wait_for("the core to be told more", lambda: p.check_alive() or p.slot()[0] > held + 200_000)
    p.capture.kill9()       # a new process cuts the spool at what is confirmed, and keeps what is before
    p.start_capture()
    p.wait_applied()
    if apply_ == "is new":
        p.apply.kill9()
    warehouse.stop("immediate")
    put_back(warehouse)
    warehouse.start()
    if apply_ == "is new":
        assert p.applied() < p.slot()[0]
        p.start_apply()
    p.wait_applied()
    assert apply_ == "is new" or p.apply.lines("was set back", "copy")
    world.finish()


def test_a_warehouse_from_a_copy_whose_gap_is_gone_is_synced(make_world):
    """The spool cannot fill it any more; the core has every event."""
    world = make_world({"spool": {"segment_size": "64 kB"}}).begin()
    p, warehouse = world.p, world.p.warehouse_cluster
    warehouse.stop()
    copy(warehouse)
    warehouse.start()
    held = p.applied()
    wait_for("the core to be told more", lambda: p.check_alive() or p.slot()[0] > held + 400_000)
    first = p.spool_segments()[0]
    wait_for("the spool to let go of it", lambda: p.check_alive() or p.spool_segments()[0] > first)
    warehouse.stop("immediate")
    put_back(warehouse)
    warehouse.start()
    wait_for("apply to find the gap", lambda: p.check_alive() or p.apply.lines("gap of the spool", "synced"))
    p.wait_live()
    world.finish()


class Standby(Cluster):
    """A standby of a cluster, from its copy; slots stay behind."""

    def __init__(self, primary):
        super().__init__("standby", settings=primary.settings)
        self.primary, self.server = primary, os.path.join(self.socket, f".s.PGSQL.{self.port}")

    def create(self):
        return self     # by follow()

    def follow(self):
        self._run("pg_basebackup", "-D", self.data, "-d", self.primary.conninfo("postgres"), "-R", "-c", "fast")
        self._run_command(["mkdir", "-m", "755", self.socket])
        self.configure({"primary_conninfo": self.primary.conninfo("postgres").replace("'", "")})
        self.start()


def test_a_core_that_failed_over_with_our_slot(make_world):
    """A standby was promoted: another timeline, on which all goes on."""
    with Cluster("core", settings={"wal_sender_timeout": "6s"}) as core:
        world = make_world(core=core).begin()
        p = world.p
        world.end_load()
        p.wait_applied()
        core.stop()
        with open(os.path.join(core.data, "standby.signal"), "w", encoding="ascii"):
            pass
        if core.demote:
            os.chown(os.path.join(core.data, "standby.signal"), core.demote["user"], core.demote["group"])
        core.start()
        core.psql("select pg_promote()", database="postgres")
        with p.writing() as conn:
            write_roles(conn, 1, 300)
        wait_for("apply to see it", lambda: p.check_alive() or p.apply.lines("failover", "taken_back=no", "synced=no"))
        world.finish()
        p.release()


def test_a_core_that_failed_over_to_a_standby_without_our_slot(make_world):
    """What is in the warehouse stays right, and what happened is said: nothing goes on as if nothing had been."""
    with Cluster("core", settings={"wal_sender_timeout": "6s"}) as core, Standby(core) as standby:
        world = make_world(core=core).begin()
        p = world.p
        world.end_load()
        end = p.wait_applied()
        standby.follow()
        wait_for("the standby to have it", lambda: lsn(standby.psql("select pg_last_wal_replay_lsn()", database="postgres")) >= end)
        core.kill9()
        standby.psql("select pg_promote()", database="postgres")
        world.to_core.server = standby.server
        p.core_cluster, p.core_conninfo = standby, standby.conninfo(p.core_database)
        assert p.core("select count(*) from pg_replication_slots") == [(0,)]
        wait_for("capture to say it", lambda: p.capture.lines("timeline") or p.capture.lines("does not exist"))
        wait_for("it to end, or to be made whole", lambda: not p.capture.running() or world.status()["healthy"])
        if not p.capture.running():
            assert p.capture.wait() == PERMANENT
            for _ in range(2):
                line, = p.capture.lines("error")
                assert "timeline" in line or "does not exist" in line, line
                world.says("stopped", "capture is not running")
                assert p.start_capture().wait() == PERMANENT
        assert p.rows() == p.events()
        p.assert_equal()
        p.apply.stop()
        p.release()


def test_a_core_from_a_copy_on_its_own_timeline_is_refused(make_world):
    """Same identity, same timeline; its positions mean something else from the copy on."""
    with Cluster("core", settings={"wal_sender_timeout": "6s"}) as core:
        world = make_world(core=core).begin()
        p = world.p
        core.stop()
        copy(core)
        core.start()
        copied = p.applied()
        wait_for("rows behind the copy", lambda: p.check_alive() or p.applied() > copied + 200_000)
        world.end_load()
        p.wait_applied()
        core.stop("immediate")      # heartbeats move the ledger until then
        wait_for("apply to have what came", lambda: p.applied() >= p.counters("capture")["capture_received_lsn_bytes"])
        held = p.applied(), p.rows(), p.warehouse(CONTENT)
        put_back(core)
        core.start()
        assert p.capture.wait() == PERMANENT
        for _ in range(2):
            line, = p.capture.lines("error")
            assert "set back" in line and "mend" in line, line
            world.says("stopped", "capture is not running", "set back")
            assert p.start_capture().wait() == PERMANENT
        assert (p.applied(), p.rows(), p.warehouse(CONTENT)) == held, "nothing was lost, nothing was mixed in"
        assert p.apply.stop() == 0
        p.release()


# ---- a zombie ---------------------------------------------------------------------------------------

def test_trap_06_a_zombie_that_holds_its_transaction_open(world):
    """It stands still in mid-transaction; its successor, on another machine (another state_dir), takes over;
    it wakes up, and stops for good."""
    p = world.p
    with psycopg.connect(p.core_conninfo) as conn:     # one that takes COPY, step by step
        write_roles(conn, 1, 3000)
    freeze_in_flight(p, random.Random(SEED), open_=True)
    zombie, config = p.apply, p.config + ".second"
    p.write_config(config, {**p.settings, "state_dir": p.state_dir + "2",
                            "spool": {"dir": os.path.join(p.state_dir, "spool"), "reserve": "0"}})
    p.apply = p.start_role("apply", config, os.path.join(p.folder, "apply2.log"))
    p.wait_applied()
    zombie.signal(signal.SIGCONT)
    assert zombie.wait() == PERMANENT
    assert zombie.lines("another applier has taken over")
    world.says("stopped", "another applier has taken over")
    world.end_load()
    p.wait_applied()
    assert p.rows() == p.events()
    p.assert_equal()
    p.stop()
