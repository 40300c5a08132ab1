"""A core that already holds events: loaded from a snapshot, folded, and followed by the stream."""
import threading

import psycopg
import pytest
from pipeline import PERMANENT, ROLE, SOME, Bank, wait_for, write_role, write_roles


class Writing(threading.Thread):
    """Goes on writing a bank's transactions while something else happens."""

    def __init__(self, bank, rate):
        super().__init__(daemon=True)
        self.bank, self.rate, self.done, self.error = bank, rate, threading.Event(), None

    def run(self):
        try:
            while not self.done.is_set():
                self.bank.live(self.rate // 4, rate=self.rate, connections=2)
        except (psycopg.Error, RuntimeError) as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        assert self.error is None, self.error


def test_first_load_of_200000_events_under_write_load(make_pipeline):
    p = make_pipeline()
    bank = Bank(p.core_conninfo, seed=31)
    bank.bulk(200_000)
    with Writing(bank, rate=100):
        p.init()
        p.start()
        assert p.counters()["apply_load_rows_total"] >= 200_000
        p.wait_applied()
    p.wait_applied()
    assert bank.events > 200_000 and p.rows() == p.events() == bank.events
    done = p.apply.lines("first load", "done=yes")
    assert len(done) == 33
    p.assert_equal()
    p.stop()


def test_a_first_load_killed_in_the_middle_starts_over_cleanly(make_pipeline):
    p = make_pipeline({"apply": {"load_chunk": 500}}, land=SOME)
    bank = Bank(p.core_conninfo, seed=32)
    bank.bulk(30_000)
    with Writing(bank, rate=60):
        p.init()
        p.start_capture()
        killed = 0
        for rows in (300, 3_000, 9_000):
            p.start_apply()
            wait_for("some of the load", lambda n=rows: (lambda c: c.get("pid") == p.apply.pid and
                                                         c["apply_load_rows_total"] > n)(p.counters()), pause=0.001)
            p.apply.kill9()
            if p.warehouse("select count(*) from rolag.relation where state = 'syncing'") == [(0,)]:
                break       # it was faster than this test
            killed += 1
        assert killed > 0, "never killed in the middle"
        p.start_apply()
        p.wait_live()
        p.wait_applied()
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_a_table_added_later_under_write_load(make_pipeline):
    p = make_pipeline(land=SOME[:5])
    p.init()
    p.start()
    bank = Bank(p.core_conninfo, seed=33)
    bank.bulk(8_000)
    with Writing(bank, rate=100):
        p.configure({"rollups": {"land": SOME}})
        out = p.init()
        assert out.count("publication") >= 5 and "added public." in out
        assert p.apply.stop() == 0
        p.start_apply()
        p.wait_live()
        p.wait_applied()
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_a_table_that_is_landed_no_longer_is_parked_and_loaded_anew_when_it_returns(make_pipeline):
    """Entities born meanwhile would be missing for ever, without a gap that could show it."""
    p = make_pipeline(land=[ROLE, SOME[0]])
    state = "select state from rolag.relation where name = %s"
    p.init()
    p.start()
    with p.writing() as conn:
        write_role(conn, 1, 1)
        write_role(conn, 1, 2)
    p.wait_applied()
    p.configure({"rollups": {"land": [SOME[0]]}})
    assert p.apply.stop() == 0
    p.start_apply()
    wait_for("the rollup to be parked", lambda: p.warehouse(state, ROLE) == [("parked",)])
    assert p.apply.lines("no longer landed", f"rollup={ROLE}")
    with p.writing() as conn:
        write_role(conn, 1, 3)
        write_role(conn, 2, 1)
    p.wait_applied()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(2,)]
    p.configure({"rollups": {"land": [ROLE, SOME[0]]}})
    assert p.apply.stop() == 0
    p.start_apply()
    p.wait_live()
    with p.writing() as conn:
        write_role(conn, 2, 2)
    p.wait_applied()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(5,)]
    p.assert_equal()
    p.stop()


def test_trap_23_no_snapshot_and_no_lock_wait_while_somebody_reads_the_tables(make_pipeline):
    """A table is emptied before it is loaded anew. Whoever reads it comes first: others can read it, too, the
    core's vacuum is not held back, and SIGTERM is heard."""
    p = make_pipeline(land=[ROLE, SOME[0]])
    p.init()
    p.start()
    with p.writing() as conn:
        write_role(conn, 1, 1)
    p.wait_applied()
    assert p.apply.stop() == 0
    p.warehouse("update rolag.relation set state = 'syncing' where name = %s", ROLE)
    with psycopg.connect(p.warehouse_conninfo) as reader:
        reader.execute(f"select * from raw.{ROLE}")
        p.start_apply()
        wait_for("the load to say what it waits for", lambda: p.apply.lines("waits for readers", ROLE))
        with psycopg.connect(p.warehouse_conninfo, autocommit=True) as other:
            other.execute("set statement_timeout = '60s'")
            for _ in range(20):
                assert other.execute(f"select count(*) from raw.{ROLE}").fetchone() == (1,)
        assert p.core("select count(*) from pg_stat_activity where application_name = 'rolag load'") == [(0,)]
        assert p.apply.stop() == 0
        p.start_apply()
        wait_for("the load to wait again", lambda: p.apply.lines("waits for readers", ROLE))
    p.wait_live()
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_trap_04_a_first_load_from_another_core_is_refused(make_pipeline):
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start_capture()
    p.configure({"core": {"connect": p.warehouse_conninfo}})
    assert p.start_apply().wait() == PERMANENT
    assert p.apply.lines("error", "system identifier", "core.connect")
    assert p.warehouse("select state from rolag.relation") == [("syncing",)]


@pytest.mark.parametrize("column, value, words", [
    ("timeline", "timeline + 1", "timeline"), ("applied_lsn", "applied_lsn + 10000000000::numeric", "it went back")])
def test_trap_59_a_first_load_from_a_core_that_went_back_is_refused(make_pipeline, column, value, words):
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start_capture()
    p.warehouse(f"update rolag.ledger set {column} = {value}")
    assert p.start_apply().wait() == PERMANENT
    assert p.apply.lines("error", words, "a sync is needed")


def test_a_first_load_is_not_bound_by_the_roles_statement_timeout(make_pipeline):
    p = make_pipeline(land=[ROLE])
    p.init()
    with p.writing() as conn:
        write_roles(conn, 1, 60_000)
    p.warehouse(f"alter database {p.warehouse_database} set statement_timeout = '50ms'")
    p.start_capture()
    p.start_apply()
    wait_for("the first load", lambda: p.apply.lines("done=yes"))
    assert p.counters()["apply_reconnects_total"] == 0
    p.warehouse(f"alter database {p.warehouse_database} reset statement_timeout")
    p.wait_live()
    p.assert_equal()
    p.stop()


def test_trap_51_a_writer_open_across_the_addition_of_a_table(make_pipeline):
    """Its rows are in no stream, since they were written before the table was published: they must be in
    the snapshot, which therefore waits for the writer."""
    p = make_pipeline(land=[name for name in SOME[:3] if name != ROLE])
    p.init()
    p.start()
    with psycopg.connect(p.core_conninfo) as open_:
        write_role(open_, 1, 1)
        write_roles(open_, 100, 199)
        p.configure({"rollups": {"land": SOME[:3] + [ROLE]}})
        p.init()
        with p.writing() as conn:
            write_role(conn, 2, 1)
        assert p.apply.stop() == 0
        p.start_apply()
        wait_for("the load to say what it waits for", lambda: p.apply.lines(
            "waits for old transactions", f"pid={open_.info.backend_pid}"))
        with p.writing() as conn:
            write_role(conn, 3, 1)
        write_role(open_, 1, 2)
        open_.commit()
        write_role(open_, 1, 3)
    p.wait_live()
    p.wait_applied()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(105,)]
    p.assert_equal()
    p.stop()


@pytest.mark.parametrize("chunk", [100, 20_000])
def test_chunks_of_any_size_load_the_same(make_pipeline, chunk):
    """Entities longer than a chunk, chunks that end with an entity, an empty table."""
    p = make_pipeline({"apply": {"load_chunk": chunk}}, land=[ROLE, SOME[0]])
    with p.writing() as conn:
        for number, length in ((1, 100), (2, 99), (3, 1), (4, 250), (5, 150)):
            for sequence in range(1, length + 1):
                write_role(conn, number, sequence)
    p.init()
    p.start()
    p.wait_applied()
    assert p.rows() == p.events() == 600
    p.assert_equal()
    p.stop()
