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


# ---- mirrors ---------------------------------------------------------------------------------------

MIRRORED = """create table loans (id int primary key, note text); create table terms (id int primary key, note text);
              create table log (id int, note text); create table parts (id int primary key) partition by range (id);
              create table parts_1 partition of parts for values from (0) to (9);
              alter table loans owner to bank; alter table terms owner to bank; alter table log owner to bank;
              alter table parts owner to bank"""


@pytest.fixture
def mirroring(core, warehouse):
    """A least-privilege site with mirrors, after init and a first load."""
    site = make_least(core, warehouse)
    site.core_sql(MIRRORED)
    site.configure("mirrors: {tables: [loans, terms, log, parts], append_only: [log]}")
    make_ready(site)
    process = site.start("run")
    try:
        wait_for("the mirrors", lambda: site.warehouse_sql(
            "select count(*) from rolag.relation where state = 'live' and kind = 'mirror'") == "4")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == OK
    yield site
    release_least(site)


def test_check_finds_nothing_of_mirrors_where_a_least_role_has_what_it_needs(mirroring):
    out = mirroring.ok("check")
    assert "FAIL" not in out and "warn" not in out, out
    assert "ok    mirrors: the sources of all 4 are there, readable, and published with all their changes" in out
    assert "ok    mirrors: the tables of all 4 stand as they should" in out


@pytest.mark.parametrize("side, spoil, says", [
    ("core", "alter publication {p}_changes drop table loans", "mirror public.loans: it is not in publication {p}_changes"),
    ("core", "alter publication {p}_changes set (publish = 'insert')", "leaves operations out"),
    ("core", "alter publication {p}_changes set (publish_via_partition_root = false)", "under the names of its partitions"),
    ("core", "alter publication {p}_changes set table loans where (id > 1), terms, parts", "with a row filter by"),
    ("core", "alter publication {p}_changes set table loans (id), terms, parts", "with a column list by"),
    ("core", "alter publication {p}_inserts add table loans", "it is in publication {p}_inserts, too"),
    ("core", "revoke select on loans from {r}", "mirror public.loans: the role may not read it"),
    ("core", "alter table loans enable row level security", "row level security hides rows"),
    ("core", "alter publication {p}_changes drop table loans; alter table loans drop constraint loans_pkey",
     "mirror public.loans: it has no replica identity"),
    ("warehouse", "alter table raw.loans owner to postgres; grant select, insert, update, delete on raw.loans to {r}",
     "not the role's own"),
    ("warehouse", "revoke delete on rolag.sync from {r}", "the role may not write rolag.sync"),
    ("warehouse", "drop table raw.loans", "there is no table"),
    ("warehouse", "update rolag.relation set state = 'parked', reason = 'because' where name = 'loans'",
     "mirror public.loans: it is parked: because"),
])
def test_check_finds_what_a_mirror_lacks_and_its_mend_mends_it(mirroring, side, spoil, says):
    names = {"p": mirroring.name, "r": mirroring.role}
    run = mirroring.core_sql if side == "core" else mirroring.warehouse_sql
    run(spoil.format(**names))
    found = [(line, m) for line, m in findings(mirroring.rolag("check")[1]) if says.format(**names) in line]
    assert found and all(m for _, m in found), mirroring.rolag("check")[1]
    mend = found[0][1]
    if mend.startswith("rolag sync"):
        return
    run(mend.partition(" (by its owner")[0])
    assert not any(says.format(**names) in line for line, _ in findings(mirroring.rolag("check")[1])), mend


def test_check_finds_an_extensions_type_that_the_warehouse_lacks(mirroring):
    mirroring.core_sql("create extension citext; alter table loans add column c citext")
    mend = [m for line, m in findings(mirroring.rolag("check")[1]) if "is of type public.citext, which the warehouse" in line]
    assert len(mend) == 1 and mend[0].startswith('CREATE EXTENSION "citext";')
    mirroring.warehouse_sql('create schema if not exists public; create extension citext schema public')
    assert "which the warehouse has not" not in mirroring.rolag("check")[1]
