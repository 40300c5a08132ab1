"""One entity that cannot be folded waits, in order, and everything else flows; it comes back when it can."""
import copy
import json
import os
import shutil

import oracle
import pytest
from pipeline import PACK, PAYMENT, ROLE, entity, wait_for, write_payment, write_role

SECRET = "s3cret-value"
LISTED = "  permission_set_removed: [permission_set_id]\n"


@pytest.fixture
def make_poisoned(make_pipeline, tmp_path):
    """make_poisoned(settings): two rollups with a pack of their own, running; role 1 has two versions."""
    def make(settings=None):
        pack = tmp_path / "pack"
        pack.mkdir()
        for name in (ROLE, PAYMENT):
            shutil.copy(os.path.join(PACK, name + ".yaml"), pack)
        every = oracle.read_rules()
        p = make_pipeline(settings, pack=pack, rules=copy.deepcopy({n: every[n] for n in (ROLE, PAYMENT)}),
                          land=[ROLE, PAYMENT])
        p.init()
        p.start()
        with p.writing() as conn:
            for sequence in (1, 2):
                write_role(conn, 1, sequence)
        p.wait_applied()
        return p
    return make


@pytest.fixture
def pipe(make_poisoned):
    return make_poisoned()


def poison(p, number=1, sequence=3):
    with p.writing() as conn:
        write_role(conn, number, sequence, {"to": SECRET}, "teleported")


def declare(p):
    """Mends the definition: no column reads it, so that its fingerprint stays."""
    definition(p, ROLE, LISTED, LISTED + "  teleported: [to]\n")
    p.rules[ROLE]["types"].append("teleported")
    p.judge_anew(ROLE)


def versions(p, number, table=ROLE):
    return [v for v, in p.warehouse(f"select version from raw.{table} where id = %s order by 1", entity(number))]


def waiting(p):
    """(number of the entity, sequence, first, state) of all that is in quarantine."""
    return [(int(id_[-12:]), sequence, first, state) for id_, sequence, first, state in
            p.warehouse("select id, sequence, first, state from rolag.quarantine order by id, sequence")]


def no_values(p):
    for folder, folders, names in os.walk(p.folder):
        if "spool" in folders:
            folders.remove("spool")
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                assert SECRET.encode() not in f.read(), name
    for command in (("status", "--json"), ("quarantine", "list"), ("quarantine", "show", ROLE, entity(1))):
        _, out, err = p.run(*command)
        assert SECRET not in out + err
    assert p.warehouse("select count(*) from rolag.quarantine where reason like %s", f"%{SECRET}%") == [(0,)]


def definition(p, name, old, new):
    """Replaces text in a definition of the pipeline's own pack."""
    path = os.path.join(p.pack, name + ".yaml")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    assert text.count(old) == 1, old
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace(old, new))


def restart(p):
    assert p.apply.stop() == 0
    p.start_apply()
    wait_for("apply to have the warehouse", lambda: p.check_alive() or p.apply.lines("writing to the warehouse"))


def test_trap_09_one_poison_event_parks_its_entity_and_the_rest_flows(pipe):
    poison(pipe)
    with pipe.writing() as conn:
        write_role(conn, 1, 4)
        write_role(conn, 2, 1)
    with pipe.writing() as conn:
        write_role(conn, 1, 5)
        write_payment(conn, 3)
    pipe.wait_applied()
    assert versions(pipe, 1) == [1, 2] and versions(pipe, 2) == [1] and versions(pipe, 3, PAYMENT) == [1]
    assert waiting(pipe) == [(1, 3, True, "waiting"), (1, 4, False, "waiting"), (1, 5, False, "waiting")]
    (reason, lsn_, committed, event), = pipe.warehouse(
        "select reason, lsn, committed_at, event from rolag.quarantine where first")
    assert reason.startswith("unknown_event: ") and "teleported" in reason and entity(1) in reason and lsn_ and committed
    assert event == '{"to": "%s"}' % SECRET
    line, = pipe.apply.lines("error", "waits in quarantine")
    assert "relation=public.core_role_events" in line and entity(1) in line and "sequence 3" in line
    counters = pipe.counters()
    assert (counters["quarantine_entities"], counters["quarantine_events"]) == (1, 3)
    no_values(pipe)
    # A restarted apply knows who waits.
    restart(pipe)
    with pipe.writing() as conn:
        write_role(conn, 1, 6)
        write_role(conn, 2, 2)
    pipe.wait_applied()
    assert versions(pipe, 1) == [1, 2] and versions(pipe, 2) == [1, 2] and len(waiting(pipe)) == 4
    # Mended and asked for, all of it is folded, in order, and live flow goes on behind it.
    declare(pipe)
    restart(pipe)
    assert len(waiting(pipe)) == 4, "a retry is asked for"
    code, out, err = pipe.run("quarantine", "retry", ROLE, entity(1))
    assert code == 0, out + err
    assert waiting(pipe) == [] and versions(pipe, 1) == [1, 2, 3, 4, 5, 6]
    with pipe.writing() as conn:
        write_role(conn, 1, 7)
    pipe.wait_applied()
    assert pipe.counters()["quarantine_entities"] == 0
    pipe.assert_equal()
    pipe.stop()


# ---- the commands ------------------------------------------------------------------------------------

def test_list_and_show_say_who_waits_and_values_only_when_asked(pipe):
    assert pipe.run("quarantine", "list")[:2] == (0, "Nobody waits in quarantine.\n")
    poison(pipe)
    pipe.wait_applied()
    code, out, _ = pipe.run("quarantine", "list")
    assert code == 1 and f"{ROLE} {entity(1)}: 1 waiting since " in out and "from sequence 3: unknown_event" in out
    code, out, _ = pipe.run("quarantine", "show", ROLE, entity(1))
    assert code == 0 and "teleported" in out and "bytes" in out and SECRET not in out
    code, out, _ = pipe.run("quarantine", "show", ROLE, entity(1), "--values")
    assert code == 0 and SECRET in out
    assert pipe.run("quarantine", "show", ROLE, entity(2))[0] == 1
    code, out, _ = pipe.run("story", entity(1))
    assert code == 0 and "waits in quarantine" in out and SECRET not in out


@pytest.mark.parametrize("words, says", [
    (["burn"], "one of list, show, retry, skip"),
    (["list", ROLE], "list takes no arguments"),
    (["retry"], "retry needs"),
    (["retry", ROLE, "--all"], "retry needs"),
    (["skip", ROLE, "x"], "--reason"),
    (["skip", ROLE, "x", "--reason", ""], "--reason"),
    (["skip", ROLE, "--reason", "why"], "skip needs ROLLUP ENTITY-ID"),
    (["show", ROLE], "show needs ROLLUP ENTITY-ID"),
    (["show", ROLE, "x", "--all"], "--all goes with retry")])
def test_words_that_do_not_fit_together_are_a_usage_error(make_pipeline, words, says):
    p = make_pipeline(land=[ROLE])
    code, _, err = p.run("quarantine", *words)
    assert code == 2 and says in err, err


def test_a_retry_that_cannot_work_parks_again_and_says_why(pipe):
    poison(pipe)
    pipe.wait_applied()
    code, out, _ = pipe.run("quarantine", "retry", "--all", "--reason", "let us see")
    assert code == 1 and "wait still" in out
    assert waiting(pipe) == [(1, 3, True, "waiting")]
    rows = pipe.warehouse("select action, rollup, id, sequence, reason, who from rolag.quarantine_audit order by at")
    assert [r[:4] for r in rows] == [("retry", ROLE, entity(1), 3), ("parked again", ROLE, entity(1), 3)]
    assert rows[0][4] == "let us see" and rows[0][5].startswith("postgres (") and "teleported" in rows[1][4]
    assert pipe.run("quarantine", "retry", ROLE, entity(2))[:2] == (0, "Nobody of these waits in quarantine.\n")
    pipe.stop()


def test_skip_passes_one_event_and_the_version_repeats_the_columns(pipe):
    poison(pipe)
    with pipe.writing() as conn:
        write_role(conn, 1, 4)
    pipe.wait_applied()
    code, out, err = pipe.run("quarantine", "skip", ROLE, entity(1), "--reason", "ticket 7")
    assert code == 0, out + err
    columns = "permission_set_ids, name"
    two, three, four = pipe.warehouse(f"select {columns} from raw.{ROLE} where id = %s and version > 1 order by version",
                                      entity(1))
    assert three == two and len(four[0]) == len(two[0]) + 1
    assert pipe.warehouse("select sequence, state, event from rolag.quarantine") == [(3, "skipped", None)]
    assert pipe.warehouse("select action, sequence, reason from rolag.quarantine_audit order by at") == \
        [("skip", 3, "ticket 7"), ("folded", 4, "2 events")]
    # It is for ever: the stream's events follow, and a load anew does the same.
    with pipe.writing() as conn:
        write_role(conn, 1, 5)
    pipe.wait_applied()
    before = pipe.warehouse(f"select id, version, event_type, {columns} from raw.{ROLE} order by 1, 2")
    assert pipe.apply.stop() == 0
    pipe.warehouse(f"drop table raw.{ROLE}, raw.{ROLE}_latest")
    pipe.warehouse("delete from rolag.relation where name = %s", ROLE)
    pipe.start_apply()
    pipe.wait_live()
    pipe.wait_applied()
    assert pipe.warehouse(f"select id, version, event_type, {columns} from raw.{ROLE} order by 1, 2") == before
    pipe.stop()


def test_a_retry_while_the_entity_is_written_to_folds_all_once(pipe):
    poison(pipe)
    pipe.wait_applied()
    declare(pipe)
    restart(pipe)
    for sequence in range(4, 60):
        with pipe.writing() as conn:
            write_role(conn, 1, sequence)
            write_role(conn, 100 + sequence, 1)
        if sequence == 20:
            pipe.warehouse("update rolag.quarantine set state = 'retry' where first")
    wait_for("the retry", lambda: waiting(pipe) == [])
    pipe.wait_applied()
    assert versions(pipe, 1) == list(range(1, 60))
    pipe.assert_equal()
    pipe.stop()


# ---- policies ----------------------------------------------------------------------------------------

def test_trap_08_a_value_that_does_not_fit_waits_with_its_reason_and_is_never_null(pipe):
    with pipe.writing() as conn:
        write_payment(conn, 3, amount=SECRET)
        write_payment(conn, 4, effective=...)
        write_payment(conn, 5)
    pipe.wait_applied()
    assert waiting(pipe) == [(3, 1, True, "waiting"), (4, 1, True, "waiting")]
    reasons = [r for r, in pipe.warehouse("select reason from rolag.quarantine order by id")]
    assert reasons[0].startswith(("bad_value: ", "missing_key: ")) and "amount" in reasons[0]
    assert reasons[1].startswith("missing_key: ") and "effective" in reasons[1]
    assert pipe.warehouse(f"select id::text from raw.{PAYMENT}") == [(entity(5),)]
    no_values(pipe)
    pipe.stop()


def test_trap_34_one_policy_in_the_stream_and_in_the_first_load(pipe):
    poison(pipe)
    with pipe.writing() as conn:
        write_role(conn, 1, 4)
        write_role(conn, 2, 1)
    pipe.wait_applied()
    parked = pipe.warehouse("select id, sequence, event_type, event, reason, first from rolag.quarantine order by sequence")
    assert pipe.apply.stop() == 0
    pipe.configure({"sync": {"chunk": 100}})
    pipe.warehouse(f"drop table raw.{ROLE}, raw.{ROLE}_latest")
    pipe.warehouse("delete from rolag.relation where name = %s", ROLE)
    pipe.start_apply()
    pipe.wait_live()
    pipe.wait_applied()
    assert pipe.warehouse("select id, sequence, event_type, event, reason, first from rolag.quarantine "
                          "order by sequence") == parked
    assert versions(pipe, 1) == [1, 2] and versions(pipe, 2) == [1]
    with pipe.writing() as conn:
        write_role(conn, 1, 5)
    pipe.wait_applied()
    assert len(waiting(pipe)) == 3
    declare(pipe)
    restart(pipe)
    assert pipe.run("quarantine", "retry", ROLE)[0] == 0
    pipe.assert_equal()
    pipe.stop()


def test_an_unlisted_key_under_policy_quarantine_waits(pipe):
    definition(pipe, ROLE, "rollup: ", "unknown_key: quarantine\nrollup: ")
    restart(pipe)
    with pipe.writing() as conn:
        write_role(conn, 1, 3, {"permission_set_id": entity(7), "colour": SECRET})
    pipe.wait_applied()
    assert waiting(pipe) == [(1, 3, True, "waiting")]
    definition(pipe, ROLE, "permission_set_added: [permission_set_id]", "permission_set_added: [permission_set_id, colour?]")
    restart(pipe)
    assert pipe.run("quarantine", "retry", ROLE)[0] == 0
    pipe.assert_equal()
    pipe.stop()


@pytest.mark.parametrize("limit", ["max_entities", "max_events"])
def test_too_many_park_the_rollup_and_not_the_warehouse(make_poisoned, limit):
    p = make_poisoned({"quarantine": {limit: 3}})
    with p.writing() as conn:
        write_role(conn, 2, 1)
        for number in range(10, 16):
            write_role(conn, number, 1, {"to": SECRET}, "teleported")
        write_role(conn, 3, 1)
        write_payment(conn, 4)
    p.wait_applied()
    assert len(waiting(p)) == 3
    (state, reason), = p.warehouse("select state, reason from rolag.relation where name = %s", ROLE)
    assert state == "parked" and "too many" in reason
    said = wait_for("the status", lambda: (lambda said: said if said["metrics"]["parked_rollups"] else None)(
        json.loads(p.run("status", "--json")[1])))
    assert said["state"] == "parked" and not said["healthy"] and " 1 rollup is parked." in said["sentence"]
    assert versions(p, 2) == [1] and versions(p, 3) == [] and versions(p, 4, PAYMENT) == [1]
    code, out, _ = p.run("quarantine", "list")
    assert code == 1 and f"rolag sync {ROLE}" in out
    code, out, _ = p.run("status")
    assert code == 1 and "1 rollup" in out.splitlines()[0] and "parked" in out.splitlines()[0], out
    # A restart does not forget it, nor loads it by itself.
    assert p.apply.stop() == 0
    p.start_apply()
    with p.writing() as conn:
        write_role(conn, 5, 1)
        write_payment(conn, 6)
    p.wait_applied()
    assert versions(p, 5) == [] and versions(p, 6, PAYMENT) == [1]
    assert p.warehouse("select state from rolag.relation where name = %s", ROLE) == [("parked",)]
    p.stop()


# ---- gaps --------------------------------------------------------------------------------------------

def lose_version(p, number, version):
    """As if the warehouse had never got it, nor what came behind it: apply is not running."""
    p.warehouse(f"delete from raw.{ROLE} where id = %s and version >= %s", entity(number), version)
    p.warehouse(f"delete from raw.{ROLE}_latest where id = %s", entity(number))
    p.warehouse(f"insert into raw.{ROLE}_latest select * from raw.{ROLE} where id = %s order by version desc limit 1",
                entity(number))


def test_trap_33_a_gap_is_filled_by_exactly_the_missing_events(pipe):
    with pipe.writing() as conn:
        for sequence in range(3, 3000):
            write_role(conn, 1, sequence)
        write_role(conn, 2, 1)
    pipe.wait_applied()
    assert pipe.apply.stop() == 0
    lose_version(pipe, 1, 2)
    lose_version(pipe, 2, 1)
    pipe.start_apply()
    with pipe.writing() as conn:
        write_role(conn, 1, 3000)
        write_role(conn, 2, 2)
        write_role(conn, 3, 1)
    pipe.wait_applied()
    assert versions(pipe, 1) == list(range(1, 3001)) and versions(pipe, 2) == [1, 2] and waiting(pipe) == []
    assert pipe.counters()["apply_repaired_events_total"] == 2999
    # The missing came without a commit time; the one that showed the gap has one.
    assert pipe.warehouse(f"select version, count(*) filter (where _committed_at is null) from raw.{ROLE} where id = %s "
                          "group by version order by version", entity(2)) == [(1, 1), (2, 0)]
    pipe.assert_equal()
    pipe.stop()


def test_a_gap_that_the_core_has_too_parks_the_entity_until_the_event_comes(pipe):
    with pipe.writing() as conn:
        write_role(conn, 1, 4)
        write_role(conn, 2, 1)
    pipe.wait_applied()
    assert waiting(pipe) == [(1, 4, True, "waiting")] and versions(pipe, 2) == [1]
    assert "nor has the core" in pipe.warehouse("select reason from rolag.quarantine")[0][0]
    with pipe.writing() as conn:
        write_role(conn, 1, 3)
    pipe.wait_applied()
    wait_for("it to come back by itself", lambda: waiting(pipe) == [])
    assert versions(pipe, 1) == [1, 2, 3, 4]
    pipe.assert_equal()
    pipe.stop()


def test_a_gap_for_ever_can_be_accepted(pipe):
    with pipe.writing() as conn:
        write_role(conn, 1, 5)
        write_role(conn, 1, 6)
    pipe.wait_applied()
    assert pipe.run("quarantine", "skip", ROLE, entity(1), "--reason", "3 and 4 were never written")[0] == 0
    assert versions(pipe, 1) == [1, 2, 5, 6]
    with pipe.writing() as conn:
        write_role(conn, 1, 7)
    pipe.wait_applied()
    assert versions(pipe, 1) == [1, 2, 5, 6, 7] and waiting(pipe) == [(1, 5, True, "skipped")]
    pipe.stop()


def test_gap_repair_waits_for_a_core_that_is_away(pipe):
    with pipe.writing() as conn:
        write_role(conn, 1, 3)
    pipe.wait_applied()
    assert pipe.apply.stop() == 0
    lose_version(pipe, 1, 2)
    with pipe.writing() as conn:
        write_role(conn, 1, 4)
        write_role(conn, 2, 1)
    mark = pipe.mark()
    wait_for("capture to have it", lambda: pipe.counters("capture")["capture_received_lsn_bytes"] >= mark)
    core = pipe.settings["core"]["connect"]
    pipe.configure({"core": {"connect": core.replace("port=", "port=1")}})
    pipe.start_apply()
    wait_for("apply to miss the core", lambda: pipe.apply.lines("the core is away"))
    assert waiting(pipe) == [] and versions(pipe, 1) == [1] and versions(pipe, 2) == []
    pipe.configure({"core": {"connect": core}})
    restart(pipe)
    pipe.wait_applied()
    assert versions(pipe, 1) == [1, 2, 3, 4] and versions(pipe, 2) == [1]
    pipe.assert_equal()
    pipe.stop()


def test_gap_under_policy_quarantine_asks_no_core(pipe):
    pipe.configure({"apply": {"gap": "quarantine"}})
    restart(pipe)
    assert pipe.apply.stop() == 0
    lose_version(pipe, 1, 2)
    pipe.start_apply()
    with pipe.writing() as conn:
        write_role(conn, 1, 3)
    pipe.wait_applied()
    assert waiting(pipe) == [(1, 3, True, "waiting")]
    assert pipe.core("select count(*) from pg_stat_activity where application_name = 'rolag repair'") == [(0,)]
    assert not pipe.apply.lines("read from the core")
    # Under the other policy, a retry asks it.
    pipe.configure({"apply": {"gap": "repair"}})
    restart(pipe)
    assert pipe.run("quarantine", "retry", ROLE)[0] == 0
    assert versions(pipe, 1) == [1, 2, 3]
    pipe.assert_equal()
    pipe.stop()


# ---- a source that does not fit ------------------------------------------------------------------------

def goes_on_without(p, *words):
    """The rollup of roles is parked, with the LSN and all of the words; payments flow, also after a restart."""
    p.wait_applied()
    (state, reason), = p.warehouse("select state, reason from rolag.relation where name = %s", ROLE)
    assert state == "parked" and reason.startswith("LSN ") and SECRET not in reason
    for word in words:
        assert word in reason, reason
    line, = p.apply.lines("error", "a rollup is parked")
    assert f"rolag sync {ROLE}" in line
    no_values(p)
    assert p.apply.stop() == 0
    p.start_apply()
    with p.writing() as conn:
        write_payment(conn, 50)
        write_role(conn, 50, 1)
    p.wait_applied()
    assert versions(p, 50, PAYMENT) == [1] and versions(p, 50) == [] and versions(p, 1) == [1, 2]
    code, out, _ = p.run("status")
    assert code == 1 and "parked" in out.splitlines()[0]


@pytest.mark.parametrize("kind, statement", [
    ("UPDATE", "update core_role_events set event = event || '{\"name\": \"%s\"}' where id = '%s' and sequence = 1"),
    ("DELETE", "delete from core_role_events where event::text <> '%s' and id = '%s' and sequence = 2"),
    ("TRUNCATE", "truncate core_role_events; -- %s %s")])
def test_an_event_table_that_does_not_only_grow_parks_its_rollup(pipe, kind, statement):
    with pipe.writing() as conn:
        conn.execute("alter table core_role_events replica identity full")
        conn.execute(f'alter publication "{pipe.name}_inserts" set (publish = \'insert, update, delete, truncate\')')
    with pipe.writing() as conn:
        write_role(conn, 10, 1)
    with pipe.writing() as conn:
        conn.execute(statement % (SECRET, entity(1)))
    with pipe.writing() as conn:
        write_role(conn, 11, 1)
        write_payment(conn, 12)
    goes_on_without(pipe, "public.core_role_events", kind)
    assert versions(pipe, 10) == [1] and versions(pipe, 11) == [] and versions(pipe, 12, PAYMENT) == [1]
    pipe.stop()


@pytest.mark.parametrize("change", ["rename column event to body", "drop column event cascade",
                                    "alter column sequence type text using sequence::text"])
def test_trap_13_a_source_column_that_does_not_fit_parks_its_rollup_where_it_changed(pipe, change):
    """Rows before the DDL have their column; from the first row behind it on the rollup waits."""
    with pipe.writing() as conn:
        write_role(conn, 10, 1)
    with pipe.writing() as conn:
        conn.execute(f"alter table core_role_events {change}")
        conn.execute("insert into core_role_events (id, sequence, event_type, recorded_at) values (%s, '3', 'x', now())"
                     if "drop" in change else
                     "insert into core_role_events select %s, '3', 'permission_set_added', "
                     f"'{{\"permission_set_id\": \"{SECRET}\"}}', null, now()", (entity(1),))
        write_payment(conn, 14)
    pipe.wait_applied()
    assert versions(pipe, 10) == [1] and versions(pipe, 14, PAYMENT) == [1]
    (state, reason), = pipe.warehouse("select state, reason from rolag.relation where name = %s", ROLE)
    assert state == "parked" and "column" in reason and ("sequence" if "type" in change else "event") in reason
    no_values(pipe)
    pipe.stop()


def test_a_row_whose_entity_cannot_be_told_parks_its_rollup(pipe):
    with pipe.writing() as conn:
        conn.execute("alter table core_role_events drop constraint if exists core_role_events_id_fkey")
        conn.execute("insert into core_role_events values (%s, 0, 'initialized', '{}', null, now())", (entity(1),))
        write_payment(conn, 14)
    goes_on_without(pipe, "column sequence", "not between 1")
    pipe.stop()
