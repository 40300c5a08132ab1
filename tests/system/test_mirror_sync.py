"""Syncs of mirrors: in pieces that go on after a kill, exact under any changes, swapped in one moment (design §5)."""
import os
import signal
import threading

import psycopg
import pytest
from mirrors import assert_mirrors, difference, make_mirrors
from pipeline import ROOT, SOME, Process, wait_for

FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(ROOT, "build", "fail", "rolag"))
LARGE = "(select string_agg(md5((n * {0})::text), '') from generate_series(1, 200) n)"
DOC = ("create table doc (id int primary key, n int, body text, also text);"
       "alter table doc alter body set storage external;"
       "insert into doc select n, n, case when n % 10 = 0 then " + LARGE.format("n.n") + " else 'b' || n end, 'x' "
       "from generate_series(1, 1000) n;").replace("n.n", "7")


@pytest.fixture
def mirrored(make_pipeline):
    def make(sql, tables, append_only=(), settings=None, **more):
        return make_mirrors(make_pipeline, sql, tables, append_only,
                            {"sync": {"chunk": 100}, "capture": {"look_interval": "1 s"}, **(settings or {})},
                            land=SOME[:1], **more)
    return make


def begin_apply(p, points):
    """Apply with failpoints."""
    assert os.path.exists(FAIL_BINARY), "make MODE=fail"
    p.apply = Process("apply", [FAIL_BINARY, "apply", "--config", p.config], os.path.join(p.folder, "apply.log"),
                      {"ROLAG_FAILPOINTS": points})
    return p.apply


def state(p, table):
    return p.warehouse("select state, reason from rolag.relation where name = %s", table)[0]


def ask(p, table):
    """The next sync of it."""
    code, out, err = p.run("sync", table)
    assert code == 0, out + err


def resync(p, table):
    before = p.warehouse("select sync_lsn from rolag.relation where name = %s", table)
    ask(p, table)
    wait_for("the sync", lambda: p.check_alive() or (
        state(p, table)[0] == "live"
        and p.warehouse("select sync_lsn from rolag.relation where name = %s", table) != before))


def leftovers(p):
    return p.warehouse("select relname from pg_class where relname like '%%\\_\\_sync%%' or relname like 'rolag\\_kept%%' "
                       "union all select name from rolag.sync union all select name from rolag.sync_row")


# ---- what hangs on a mirror survives ------------------------------------------------------------------

def test_trap_36_a_mirror_whose_columns_changed_keeps_its_grants_views_comments_and_indexes(mirrored):
    p = mirrored(DOC, ["doc"])
    p.core("insert into doc values (2000, 1, 'later', 'y')")
    assert_mirrors(p, ["doc"])
    p.warehouse("create role clerk")
    try:
        p.warehouse("create view public.short as select id, n from raw.doc; create view public.over as select max(n) as m from public.short;"
                    "create index by_n on raw.doc (n); grant select on raw.doc to clerk; grant select on public.over to clerk;"
                    "comment on column raw.doc.n is 'ours, not rolag''s'; comment on view public.short is 'short'")
        p.core("alter table doc drop column also; alter table doc add extra int default 7; alter table doc alter n type bigint")
        p.core("insert into doc values (2001, 5000000000, 'after', 8)")
        p.wait_applied()
        assert state(p, "doc")[0] == "parked"
        resync(p, "doc")
        assert_mirrors(p, ["doc"])
        assert p.warehouse("select m from public.over") == [(5000000000,)]
        assert p.warehouse("select has_table_privilege('clerk', 'raw.doc', 'select'), has_table_privilege('clerk', 'public.over', "
                           "'select'), col_description('raw.doc'::regclass, 2), obj_description('public.short'::regclass), "
                           "to_regclass('raw.by_n') is not null, to_regclass('raw.doc_pkey') is not null") == [
            (True, True, "ours, not rolag's", "short", True, True)]
        p.core("update doc set n = 1 where id = 2001; delete from doc where id < 50")
        assert_mirrors(p, ["doc"])
        assert leftovers(p) == []
        p.stop()
    finally:
        p.warehouse("drop owned by clerk; drop role clerk")


def test_a_view_of_a_column_that_goes_is_named_and_the_mirror_stays_until_it_is_mended(mirrored):
    p = mirrored(DOC, ["doc"])
    p.warehouse("create view public.odd as select also from raw.doc")
    p.core("alter table doc drop column also; insert into doc values (2000, 1, 'x')")
    p.wait_applied()
    held = p.warehouse("select count(*), max(also) from raw.doc")
    ask(p, "doc")
    wait_for("the refusal", lambda: "DROP VIEW public.odd" in (state(p, "doc")[1] or ""))
    assert state(p, "doc")[0] == "parked" and p.warehouse("select count(*), max(also) from raw.doc") == held
    wait_for("what was made beside it to go", lambda: leftovers(p) == [])
    p.warehouse("drop view public.odd")
    resync(p, "doc")
    assert_mirrors(p, ["doc"])
    p.stop()


def test_a_mirror_that_cannot_be_swapped_but_lands_alike_is_filled_in_its_place(mirrored):
    """A materialized view of a user's stays on it, and nobody sees it empty."""
    p = mirrored(DOC, ["doc"])
    p.warehouse("create materialized view public.held as select count(*) as n from raw.doc")
    p.warehouse("delete from raw.doc where id > 500")
    with seen_rows(p, "raw.doc") as seen:
        resync(p, "doc")
    assert min(seen) >= 500
    assert p.apply.lines("replaced in its place", "DROP MATERIALIZED VIEW public.held")
    p.warehouse("refresh materialized view public.held")
    assert p.warehouse("select n from public.held") == [(1000,)]
    p.core("update doc set n = 0 where id % 3 = 0")
    assert_mirrors(p, ["doc"])
    assert leftovers(p) == []
    p.stop()


class seen_rows:        # noqa: N801
    """Counts of rows that a reader sees meanwhile."""

    def __init__(self, p, table):
        self.p, self.table, self.over, self.seen, self.failed = p, table, threading.Event(), [], []

    def read(self):
        try:
            with psycopg.connect(self.p.warehouse_conninfo, autocommit=True) as conn:
                while not self.over.is_set():
                    self.seen.append(conn.execute(f"select count(*) from {self.table}").fetchone()[0])
        except psycopg.Error as e:
            self.failed.append(e)

    def __enter__(self):
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        wait_for("the reader", lambda: self.seen or self.failed)
        return self.seen

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        assert not self.failed, self.failed


@pytest.mark.parametrize("identity", ["default", "full, without a key"])
def test_trap_52_readers_never_see_a_mirror_empty_while_it_is_synced_again(mirrored, identity):
    keyless = "alter table doc drop constraint doc_pkey; alter table doc replica identity full;" if "full" in identity else ""
    p = mirrored(DOC + keyless, ["doc"])
    with seen_rows(p, "raw.doc") as seen:
        for _ in range(3):
            p.core("update doc set n = n + 1 where id % 7 = 0")
            resync(p, "doc")
    assert set(seen) == {1000}
    assert_mirrors(p, ["doc"])
    p.stop()


def test_a_reader_that_is_in_the_way_holds_up_that_mirror_only(mirrored):
    p = mirrored(DOC + "create table steady (id int primary key)", ["doc", "steady"])
    with psycopg.connect(p.warehouse_conninfo) as reader:
        reader.execute("select count(*) from raw.doc")
        ask(p, "doc")
        wait_for("the swap to wait", lambda: p.apply.lines("table=doc", "waits_to_be_swapped", "55P03"))
        p.core("insert into steady values (1); update doc set n = -1 where id = 5")
        wait_for("the other to flow", lambda: p.warehouse("select count(*) from raw.steady") == [(1,)])
        assert reader.execute("select count(*) from raw.doc").fetchone() == (1000,)
        assert state(p, "doc")[0] == "syncing"
    wait_for("the swap", lambda: state(p, "doc")[0] == "live")
    assert_mirrors(p, ["doc", "steady"])
    p.stop()


# ---- kills --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("point", ["mirror.piece=kill@5", "mirror.row=kill@450", "sync.piece=kill@4", "sync.all_read=kill",
                                   "sync.replay=kill", "swap.done=kill", "sync.after_live_commit=kill"])
def test_a_mirror_killed_in_its_sync_goes_on_where_it_was(mirrored, point):
    """A worker dies in the middle of a piece, or at the swap; the next one does not begin anew."""
    p = mirrored(DOC, ["doc"])
    p.core("update doc set n = 0 where id = 1")
    assert_mirrors(p, ["doc"])
    assert p.apply.stop() == 0
    p.warehouse("update rolag.relation set state = 'syncing' where name = 'doc'")
    apply = begin_apply(p, point)
    wait_for("the point", lambda: apply.lines("failpoint fired"))
    p.core("update doc set id = id + 5000, n = -1 where id in (10, 20, 30, 990)")
    p.core("insert into doc values (3000, 3000, 'new', 'z'); delete from doc where id = 17")
    wait_for("the sync to end", lambda: p.check_alive() or state(p, "doc")[0] == "live")
    if point.startswith(("mirror", "sync.piece")):
        begun = apply.lines("begins=anew") or apply.lines("read anew")
        assert not begun
        assert len(apply.lines("a piece begins", "rows=0")) <= 1
    assert_mirrors(p, ["doc"])
    assert leftovers(p) == []
    p.stop()


def test_what_was_read_before_a_kill_is_not_read_again(mirrored):
    p = mirrored(DOC, ["doc"])
    assert p.apply.stop() == 0
    p.warehouse("update rolag.relation set state = 'syncing' where name = 'doc'")
    begin_apply(p, "mirror.piece=kill@8")
    wait_for("the kill", lambda: p.apply.lines("failpoint fired"))
    p.apply.kill9()
    (started, rows, key), = p.warehouse("select started_at, rows, last_key from rolag.sync")
    assert rows == 700 and key == ["700"]
    p.warehouse("update raw.doc__sync set also = 'read before' where id = 1")     # only who does not read it again keeps this
    begin_apply(p, "sync.held=delay:2000")
    wait_for("all to be read", lambda: p.warehouse("select read_lsn is not null from rolag.sync") == [(True,)])
    assert p.warehouse("select started_at, rows from rolag.sync") == [(started, 1000)]
    wait_for("the swap", lambda: state(p, "doc")[0] == "live")
    assert p.warehouse("select also from raw.doc where id = 1") == [("read before",)]
    p.stop()


# ---- exact --------------------------------------------------------------------------------------------

CHANGES = [     # between two pieces: to the part that was read, and from it
    "update doc set id = id + 5000 where id in (10, 20, 500, 990)",             # toasted values go along unsent
    "update doc set id = id - 1000000 where id in (30, 510, 980)",
    "update doc set id = id - 5000, n = 77 where id in (5010, 5500)",           # and back
    "update doc set also = 'u' where id % 100 = 50",
    "update doc set id = 1000000 - id, n = 1 where id in (40, 520, 970); update doc set n = n + 1 where id > 900000",
    "delete from doc where id in (60, 540); insert into doc values (60, 0, 'again', 'i')",
    "update doc set body = " + LARGE.format(3) + " where id = 70; update doc set id = 4070 where id = 70",
    "update doc set id = id + 1 where id = 5020; update doc set id = id - 2 where id = 5021",
]


@pytest.mark.parametrize("binary", ["on", "off"])
@pytest.mark.parametrize("identity", ["default", "full", "index"])
def test_keys_that_change_between_two_pieces_with_values_that_are_not_sent(mirrored, identity, binary):
    """A row that was read under neither key, or under both, is asked for once more; so are rows behind a kill."""
    made = {"default": "", "full": "alter table doc replica identity full;",
            "index": "alter table doc add k text; update doc set k = 'k' || id; alter table doc alter k set not null, alter k set default 'made';"
                     "create unique index doc_k on doc (k, id); alter table doc replica identity using index doc_k;"}[identity]
    p = mirrored(DOC + made, ["doc"], settings={"capture": {"binary": binary, "look_interval": "1 s"}})
    assert_mirrors(p, ["doc"])
    assert p.apply.stop() == 0
    p.warehouse("update rolag.relation set state = 'syncing' where name = 'doc'")
    apply = begin_apply(p, "mirror.piece=delay:700@1+;mirror.again=kill;sync.replay=delay:500")
    meanwhile = 0
    for n, change in enumerate(CHANGES):
        wait_for("a piece", lambda n=n: p.check_alive() or p.warehouse("select rows from rolag.sync where rows >= %s", 100 * n + 100)
                 or state(p, "doc")[0] == "live")
        p.core(change)
        meanwhile += p.warehouse("select 1 from rolag.sync where read_lsn is null") == [(1,)]
    assert meanwhile >= 3, "changes must come while it is read"
    wait_for("the sync to end", lambda: p.check_alive() or state(p, "doc")[0] == "live")
    if identity != "full":      # whose old rows come whole
        assert apply.lines("failpoint fired", "mirror.again")
    assert_mirrors(p, ["doc"])
    p.core("update doc set id = id + 10000000; update doc set n = 3")
    assert_mirrors(p, ["doc"])
    assert leftovers(p) == []
    p.stop()


BETWEEN = {
    "truncated": "truncate doc; insert into doc values (1, 1, 'one', 'x')",
    "a column more": "alter table doc add extra int default 5; update doc set extra = 6 where id < 500",
    "a column less": "alter table doc drop column also; update doc set n = 6 where id < 500",
    "written anew": "alter table doc alter n type int using n + 1",
    "vacuum full": "vacuum full doc",
    "another key": "alter table doc drop constraint doc_pkey, add primary key (id); update doc set n = 8 where id = 1",
}


@pytest.mark.parametrize("what", BETWEEN)
def test_a_table_that_becomes_another_between_two_pieces_is_read_anew(mirrored, what):
    p = mirrored(DOC, ["doc"])
    assert p.apply.stop() == 0
    p.warehouse("update rolag.relation set state = 'syncing' where name = 'doc'")
    begin_apply(p, "mirror.piece=delay:150@1+")
    wait_for("pieces", lambda: p.warehouse("select 1 from rolag.sync where rows >= 300"))
    with psycopg.connect(p.core_conninfo, autocommit=True) as conn:
        for sql in BETWEEN[what].split("; "):
            conn.execute(sql)
    wait_for("the sync to end", lambda: p.check_alive() or state(p, "doc")[0] == "live")
    assert p.apply.lines("became another while it was read")
    p.core("update doc set n = 9 where id = 1")
    assert_mirrors(p, ["doc"])
    p.stop()


# ---- partitions ---------------------------------------------------------------------------------------

PART = ("create table part (id int, at date, v text, primary key (id, at, v)) partition by range (at);"
        "create table part_1 partition of part for values from ('2024-01-01') to ('2025-01-01');"
        "create table part_2 partition of part for values from ('2025-01-01') to ('2026-01-01') partition by list (v);"
        "create table part_2a partition of part_2 for values in ('a'); create table part_2b partition of part_2 for values in ('b');"
        "create table ready (id int not null, at date not null, v text not null); insert into ready values (9, '2026-05-05', 'r');"
        "insert into part select n, '2024-05-05', 'x' from generate_series(1, 500) n;"
        "insert into part values (1, '2025-01-01', 'a'), (2, '2025-01-01', 'b')")
LEAVES = {
    "detach": ("alter table part detach partition part_1", "detached or dropped"),
    "drop": ("drop table part_2b", "detached or dropped"),
    "attach": ("alter table part attach partition ready for values from ('2026-01-01') to ('2027-01-01')", "ready was attached"),
    "truncate": ("truncate part_2a", "part_2a was truncated"),
}


@pytest.mark.parametrize("what", LEAVES)
def test_trap_19_a_change_among_partitions_parks_the_mirror_until_it_is_synced(mirrored, what):
    p = mirrored(PART, ["part"])
    sql, words = LEAVES[what]
    p.core(sql)
    wait_for("it to be seen", lambda: p.check_alive() or state(p, "part")[0] == "parked")
    assert words in state(p, "part")[1], state(p, "part")
    assert p.apply.lines("a mirror is parked", "table=public.part", 'mend="rolag sync part"')
    p.core("insert into part values (77, '2025-02-02', 'a')")
    p.wait_applied()
    assert difference(p, "part") != "", "it does not follow"
    resync(p, "part")
    assert_mirrors(p, ["part"])
    p.stop()


def test_partitions_that_are_made_as_such_and_truncates_of_the_root_park_nothing(mirrored):
    p = mirrored(PART, ["part"])

    def noted():
        return p.warehouse("select leaves::text from rolag.relation where name = 'part'")[0][0]

    first = noted()
    assert first.count(":") == 3
    p.core("create table part_3 partition of part for values from ('2026-01-01') to ('2027-01-01'); insert into part values (5, '2026-06-06', 'n')")
    wait_for("it to be noted", lambda: p.check_alive() or noted().count(":") == 4)
    p.core("truncate part; insert into part values (6, '2026-06-06', 'n'), (7, '2024-06-06', 'x')")
    wait_for("all of them to be noted anew", lambda: p.check_alive() or (noted().count(":") == 4 and noted() != first))
    assert state(p, "part") == ("live", None)
    p.core("update part set v = 'z' where id = 7")
    assert_mirrors(p, ["part"])
    assert state(p, "part") == ("live", None)
    p.stop()
