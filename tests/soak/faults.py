"""The kinds of faults that a soak makes. Each leaves the world mended; what must then be true is soak.py's."""
import errno
import os
import shutil
import signal
import subprocess
import time

import psycopg
from network import Frozen

APPLY = "application_name = 'rolag apply soak'"
KINDS = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


def schedule(seed, random):
    """(seconds to wait, kind, random numbers for it) without end; every kind comes before one comes again."""
    rng = random.Random(f"soak {seed}")
    while True:
        for name in rng.sample(sorted(KINDS), len(KINDS)):
            yield rng.uniform(10, 30), name, random.Random(rng.random())


# ---- processes --------------------------------------------------------------------------------------

@kind
def capture_killed(w, rng):
    for _ in range(rng.randint(1, 3)):
        w.send("capture", signal.SIGKILL)
        w.hold(rng.uniform(0, 2))


@kind
def apply_killed(w, rng):
    for _ in range(rng.randint(1, 3)):
        w.send("apply", signal.SIGKILL)
        w.hold(rng.uniform(0, 2))


@kind
def rolag_stopped(w, rng):
    assert w.run.stop() == 0, "rolag run did not end with 0 at SIGTERM"
    w.hold(rng.uniform(0, 5))
    w.start()


@kind
def rolag_killed(w, rng):
    w.run.kill9()
    w.hold(rng.uniform(0, 5))
    w.start()


@kind
def capture_frozen(w, rng):
    with Frozen([w.running_pid("capture")]):
        w.hold(rng.uniform(1, 12))


@kind
def apply_frozen(w, rng):
    with Frozen([w.running_pid("apply")]):
        w.hold(rng.uniform(1, 12))


# ---- servers ----------------------------------------------------------------------------------------

def server(w, rng):
    return rng.choice([w.core, w.warehouse])


@kind
def core_killed(w, rng):
    w.core.kill9()
    w.hold(rng.uniform(0, 4))
    w.core.start()


@kind
def warehouse_killed(w, rng):
    w.warehouse.kill9()
    w.hold(rng.uniform(0, 4))
    w.warehouse.start()


@kind
def server_restarted(w, rng):
    server(w, rng).restart("fast")


@kind
def core_away(w, rng):
    w.core.stop("fast")
    w.hold(rng.uniform(5, 15))
    w.core.start()


@kind
def warehouse_away(w, rng):
    w.warehouse.stop("fast")
    w.hold(rng.uniform(5, 15))
    w.warehouse.start()


@kind
def both_away(w, rng):
    w.core.stop("immediate")
    w.warehouse.stop("immediate")
    w.hold(rng.uniform(2, 8))
    w.warehouse.start()
    w.core.start()


@kind
def backends_frozen(w, rng):
    cluster = server(w, rng)
    with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as conn:
        pids = [p for p, in conn.execute("select pid from pg_stat_activity where application_name like 'rolag %'")]
    with Frozen(pids):
        w.hold(rng.uniform(2, 12))


@kind
def server_slow(w, rng):
    """Every process of it stands still for nine tenths of the time."""
    cluster = server(w, rng)
    until = time.monotonic() + rng.uniform(3, 8)
    while time.monotonic() < until:
        with Frozen(cluster._children(cluster.process.pid)):
            time.sleep(0.18)
        time.sleep(0.02)


@kind
def connections_eaten(w, rng):
    """No connection is left, and ours are ended, some of them again and again."""
    cluster, eaten = server(w, rng), []
    try:
        with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as conn:
            until = time.monotonic() + rng.uniform(3, 8)
            while time.monotonic() < until:
                conn.execute("select pg_terminate_backend(pid) from pg_stat_activity "
                             "where application_name like 'rolag %'")
                try:
                    for _ in range(100):
                        eaten.append(psycopg.connect(cluster.conninfo("postgres")))
                except psycopg.OperationalError:
                    pass
                w.hold(1)
    finally:
        for conn in eaten:
            conn.close()


@kind
def backends_terminated(w, rng):
    with psycopg.connect(server(w, rng).conninfo("postgres"), autocommit=True) as conn:
        for _ in range(rng.randint(1, 20)):
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity "
                         "where application_name like 'rolag %'")
            time.sleep(rng.uniform(0, 0.5))


@kind
def warehouse_locked(w, rng):
    """Somebody holds the ledger's table, or a landed one."""
    table = rng.choice(["rolag.ledger", "rolag.fence", "raw.core_deposit_account_events_rollup",
                        "raw.core_customer_events_rollup_latest"])
    with psycopg.connect(w.p.warehouse_conninfo) as conn:
        conn.execute(f"lock table {table}")
        w.hold(rng.uniform(2, 10))


@kind
def warehouse_from_a_copy(w, rng):
    """It goes back to what it was; the spool still holds what came since."""
    copy = w.warehouse.data + ".copy"
    w.warehouse.stop(rng.choice(["fast", "immediate"]))
    try:
        subprocess.run(["cp", "-a", w.warehouse.data, copy], check=True)
        w.warehouse.start()
        w.hold(rng.uniform(5, 40))
        if rng.random() < 0.5:
            w.send("apply", signal.SIGKILL)     # its successor knows nothing of what was there
        w.warehouse.stop("immediate")
        shutil.rmtree(w.warehouse.data)
        os.rename(copy, w.warehouse.data)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    w.warehouse.start()


# ---- the bank ---------------------------------------------------------------------------------------

@kind
def long_transaction(w, rng):
    """One with an id is open in the core for long; then it is rolled back."""
    with psycopg.connect(w.p.core_conninfo) as conn:
        conn.execute("insert into core_roles values (gen_random_uuid(), 'soak', now())")
        w.hold(rng.uniform(5, 20))
        conn.rollback()


@kind
def large_transaction(w, rng):
    """Thousands of events in one, while a role is killed."""
    many = rng.randint(5_000, 40_000)
    with psycopg.connect(w.p.core_conninfo) as conn:
        conn.execute(f"""
            with made as (insert into core_roles select gen_random_uuid(), gen_random_uuid()::text, now()
                          from generate_series(1, {many}) returning id, name)
            insert into core_role_events
            select id, 1, 'initialized', jsonb_build_object('name', name, 'permission_set_ids', '[]'::jsonb), null,
                   now() from made""")
    time.sleep(rng.uniform(0, 1))
    w.send(rng.choice(["capture", "apply"]), signal.SIGKILL)


# ---- network ----------------------------------------------------------------------------------------

def links(w, rng):
    return rng.choice([[w.to_core], [w.to_warehouse], [w.to_core, w.to_warehouse]])


@kind
def network_cut(w, rng):
    chosen = links(w, rng)
    for link in chosen:
        link.cut()
    w.hold(rng.uniform(1, 12))
    for link in chosen:
        link.mend()


@kind
def network_flaps(w, rng):
    chosen = links(w, rng)
    for _ in range(rng.randint(3, 15)):
        for link in chosen:
            link.reset()
        time.sleep(rng.uniform(0, 0.7))


@kind
def network_stalled(w, rng):
    chosen = links(w, rng)
    for link in chosen:
        link.stall()
    w.hold(rng.uniform(2, 15))
    for link in chosen:
        if rng.random() < 0.5:
            link.reset()
        link.mend()


@kind
def network_slow(w, rng):
    chosen = links(w, rng)
    for link in chosen:
        link.slow(rng.uniform(0.01, 0.2))
    w.hold(rng.uniform(3, 10))
    for link in chosen:
        link.mend()


# ---- disk and clock ---------------------------------------------------------------------------------

@kind
def spool_disk_full(w, rng):
    w.shim.full()
    w.hold(rng.uniform(2, 12))
    w.shim.mend()


@kind
def spool_disk_read_only(w, rng):
    """A role that starts on such a disk ends for good, saying so: whoever mounts it anew starts rolag anew."""
    w.shim.read_only()
    w.hold(rng.uniform(2, 12))
    code = w.run.wait()
    w.shim.mend()
    if code != 100:
        raise AssertionError(f"rolag run ended with {w.run.popen.returncode} on a read-only disk")
    w.start()


@kind
def spool_sync_fails(w, rng):
    w.shim.set(sync_error=errno.EIO)
    w.hold(rng.uniform(1, 6))
    w.shim.mend()


@kind
def spool_disk_slow(w, rng):
    w.shim.set(delay_ms=rng.randint(20, 1500))
    w.hold(rng.uniform(3, 12))
    w.shim.mend()


@kind
def clock_jumps(w, rng):
    for _ in range(rng.randint(1, 3)):
        w.shim.set(clock_us=rng.choice([-86400, -3600, -60, -2, 2, 60, 3600, 86400]) * 1_000_000)
        w.hold(rng.uniform(1, 4))
    w.shim.mend()
