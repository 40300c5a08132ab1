"""check and init around custody: settings, identities, slots and spool, each finding with a mend that works.

The role is the least one: REPLICATION and SELECT, neither superuser nor owner of anything in the core.
"""
import os
import re
import shutil
import signal
import subprocess

import pytest
from cluster import Cluster
from test_commands import (FINDING, OK, PERMANENT, Site, do_sql, findings, make_least, make_ready, release_least,
                           the_finding, wait_for)


@pytest.fixture(scope="module")
def core():
    with Cluster("checked", settings={"max_slot_wal_keep_size": "32GB", "max_replication_slots": 20,
                                      "max_wal_senders": 20}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def warehouse():
    with Cluster("checked_warehouse") as cluster:
        yield cluster


@pytest.fixture
def ready(core, warehouse):
    made = make_least(core, warehouse)
    yield make_ready(made)
    release_least(made)


def capture(site, until, *more):
    """capture runs until its log says so, then stops."""
    process = site.start("capture", *more)
    try:
        wait_for(until, lambda: until in site.log())
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    assert code == OK
    wait_for("the slot to be free", lambda: site.core_sql(
        f"select active from pg_replication_slots where slot_name = '{site.slot}'") == "f")


def test_a_least_role_is_told_nothing_but_what_is_optional(ready):
    out = ready.ok("check")
    assert "warn" not in out and "FAIL" not in out
    assert "ok    core: wal_sender_timeout = 60 s" in out
    assert "ok    publications: no statement of the core fails for want of a replica identity" in out
    assert f'optional: GRANT pg_read_all_stats TO "{ready.role}";' in out
    ready.core_sql(f"grant pg_read_all_stats to {ready.role}")
    assert "pg_read_all_stats" not in ready.ok("check")


@pytest.mark.parametrize("spoil", [
    "alter table loans drop constraint loans_pkey",
    "alter table loans replica identity nothing",
    "alter table loans replica identity using index loans_other; drop index loans_other",
])
def test_trap_21_check_finds_a_published_table_without_identity(ready, spoil):
    """Its UPDATE fails, and the mend gives it back to the bank."""
    ready.core_sql("create table loans (id int primary key, note text, other int not null);"
                   "create unique index loans_other on loans (other); insert into loans values (1, '', 1)")
    ready.core_sql(f"create publication {ready.name}_changes for table loans")
    assert "FAIL" not in ready.rolag("check")[1].replace("FAIL  publication " + ready.name + "_changes", "")
    ready.core_sql(spoil)
    with pytest.raises(RuntimeError, match="does not have a replica identity"):
        ready.core_sql("update loans set note = 'x'")
    mend = [m for line, m in findings(ready.rolag("check")[1]) if "loans has no replica identity" in line]
    assert len(mend) == 1
    ready.core_sql(mend[0].split(";")[0])
    ready.core_sql("update loans set note = 'x'")
    assert "has no replica identity" not in ready.rolag("check")[1]


def test_check_finds_partitions_that_would_come_under_their_own_names(ready):
    ready.core_sql("create table many (id int primary key) partition by range (id)")
    ready.core_sql("create table many_1 partition of many for values from (0) to (9)")
    ready.core_sql(f"create publication {ready.name}_changes for table many")
    mend = [m for line, m in findings(ready.rolag("check")[1]) if "rows of the partitioned table many" in line]
    do_sql(ready.core_sql, mend[0])
    assert "partitioned table" not in ready.rolag("check")[1]


def test_trap_58_check_finds_a_slot_with_two_phase(core, warehouse):
    site = Site(core, warehouse)
    try:
        site.ok("init")
        site.drop_slot()
        site.core_sql(f"select pg_create_logical_replication_slot('{site.slot}', 'pgoutput', false, true)")
        assert "pg_drop_replication_slot" in the_finding(site, "was made with two_phase")
    finally:
        site.release()


def test_check_finds_a_warehouse_that_cannot_hold_what_comes(core, warehouse):
    site = Site(core, warehouse)
    try:
        site.warehouse.psql(f"drop database {site.warehouse_db}", database="postgres")
        site.warehouse.psql(f"create database {site.warehouse_db} encoding 'LATIN1' locale 'C' template template0",
                            database="postgres")
        told = [mend for line, mend in findings(site.rolag("check")[1]) if "its encoding is LATIN1" in line]
        assert len(told) == 1 and "ENCODING 'UTF8'" in told[0]
    finally:
        site.release()


def test_check_finds_a_warehouse_role_that_may_not_write(ready):
    ready.warehouse_sql(f"alter role {ready.role} set default_transaction_read_only = on")
    do_sql(ready.warehouse_sql, the_finding(ready, "default_transaction_read_only is on"))
    assert "FAIL" not in ready.ok("check")


@pytest.mark.parametrize("value, says", [("0", "it never notices that a client is gone"),
                                         ("2s", "a short stall of the network ends the stream")])
def test_check_warns_of_a_wal_sender_timeout_that_harms(ready, core, value, says):
    core.psql(f"alter system set wal_sender_timeout = '{value}'", database="postgres")
    core.reload()
    wait_for("the setting", lambda: says in ready.ok("check"))
    out = ready.ok("check")
    mend = re.search(f"{says}.*\n +mend: (.*)", out)[1]
    do_sql(lambda sql: core.psql(sql, database="postgres"), mend)
    core.psql("alter system reset wal_sender_timeout", database="postgres")
    core.reload()
    wait_for("the setting", lambda: "warn" not in ready.ok("check"))


def test_trap_57_init_and_capture_mend_what_check_finds(ready):
    """The publication is dropped while the core writes on. check names it, init makes it again (by its owner's
    hand here), capture gets a new slot, and the spool says what is missing."""
    capture(ready, "stream starts")
    assert "ok    spool: from" in ready.ok("check")
    ready.core_sql(f"drop publication {ready.publication}")
    ready.core_sql("insert into core_a_events values (gen_random_uuid(), 1, 'initialized', '{\"amount\": 1}', null, now())")
    mend = the_finding(ready, "what the core wrote since can never be decoded")
    assert mend.startswith("rolag init") and "capture then makes a new slot" in mend
    code, line = ready.fails("init")
    assert code == PERMANENT and "let the owner run what rolag init --print-sql prints" in line
    ready.core_sql(ready.ok("init", "--print-sql", "core").partition("SET lock_timeout")[2].partition(";")[2].partition(";")[0])
    assert f"slot {ready.slot} exists" in ready.ok("init")
    ready.core_sql("insert into core_a_events values (gen_random_uuid(), 1, 'initialized', '{\"amount\": 1}', null, now())")
    capture(ready, "a gap: the slot that had these changes is lost")
    assert "ok    spool: from" in ready.ok("check")


def test_trap_04_check_finds_a_spool_that_does_not_fit_its_slot(ready):
    capture(ready, "stream starts")
    ready.drop_slot()
    code, out, _ = ready.rolag("check")
    assert code == FINDING
    assert [m for line, m in findings(out) if "slot: it is gone" in line] == [
        "start rolag capture: it makes a new one, and apply syncs what is missing"]
    out = ready.ok("init")      # a new slot is made where none is; the spool knows nothing of it yet
    assert "created slot" in out and "apply syncs what the new slot lacks" in out
    assert "none is needed" in the_finding(ready, "what is between is in neither")
    capture(ready, "a gap: the slot that had these changes is lost")
    assert "FAIL" not in ready.ok("check")
    # And one that was taken away: nothing to compare with.
    spool = os.path.join(ready.state, "spool")
    shutil.rmtree(spool)
    subprocess.run(["mkdir", "-m", "700", spool], check=True)
    assert "ok    spool: from" not in ready.ok("check")
