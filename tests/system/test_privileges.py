"""Least privilege: the pipeline runs whole with the roles of the shipped SQL, and none of them may do more.

Two clusters whose pg_hba.conf lets each role into one database, as the README says; and, for root, users of the
machine as the package has them, with folders made by the shipped tmpfiles, under a umask that forbids nothing.
"""
import os
import re
import shutil
import stat
import subprocess
import tempfile

import psycopg
import pytest
from cluster import Cluster
from companion import Companion
from pipeline import CORE_SQL, PACK, ROLE, ROOT, Process, entity, wait_for, write_role
from program import ROLAG
from test_quarantine import definition

CAPTURE, APPLY, FENCE, COMPANION = "lana_capture", "lana_apply", "lana_fence", "lana_reports"
AUDITOR, OFFICE = "lana_auditor", "lana_office"
USERS = {"rolag": 61801, "rolag-reports": 61802, "operator": 61803, "stranger": 61804, "clerk": 61805}
# Of a process; a clerk, who is of the group rolag, too, fetches reports.
GROUPS = {"rolag": 61801, "rolag-reports": 61801, "operator": 61801, "stranger": 61804, "clerk": 61802}
SECRET = "the-bank's-own-secret"
DEFINITIONS = """language: 1
reports:
  - id: nrp_1/01_roles
    name: roles
    title: Every role
    model: report_roles
    formats: [csv, xml]
    order: [id]
    xml: {schema: roles, namespace: "urn:test:roles", root: all, row: role, min_rows: 1}
    columns:
      - {name: id, type: text, length: 36}
      - {name: name, type: text, max_length: 200, nillable: true}
"""
MODELS = {
    "dbt_project.yml": "name: bank\nversion: '1.0'\n",
    "models/staging/sources.yml": f"version: 2\nsources:\n  - name: raw\n    tables: [{{name: {ROLE}_latest}}]\n",
    "models/staging/stg_roles.sql": f"select id, name from {{{{ source('raw', '{ROLE}_latest') }}}}\n",
    "models/intermediate/int_roles.sql": "{{ config(materialized='table') }}\nselect id, name from {{ ref('stg_roles') }}\n",
    "models/outputs/report_roles.sql": "select id::text as id, name from {{ ref('int_roles') }}\n",
}
AS_ROOT = os.geteuid() == 0


def as_user(user, *words, umask="000"):
    """The command line that runs words as a user of the machine; as we are where we may not change that."""
    drop = ["setpriv", f"--reuid={USERS[user]}", f"--regid={GROUPS[user]}",
            f"--groups={GROUPS['rolag']}" if user == "clerk" else "--clear-groups"]
    return [*(drop if AS_ROOT else []), "sh", "-c", f'umask {umask}; exec "$@"', "sh", *words]


class Estate(Companion):
    """As a bank would have it: a database role for each process and for those who look, users, folders."""

    def create(self):
        os.chmod(self.folder, 0o755)
        self.program = shutil.copy(ROLAG, os.path.join(self.folder, "rolag"))     # where every user gets at it
        self.core_cluster.psql(f"create database {self.core_database}", database="postgres")
        self.core_cluster.psql(file=CORE_SQL, database=self.core_database)
        self.warehouse_cluster.psql(f"create database {self.warehouse_database}", database="postgres")
        self.core("create table customer_secrets (id int primary key, secret text)")
        self.core("insert into customer_secrets values (1, %s)", SECRET)
        self.warehouse("create schema ext")
        self.warehouse("create table ext.prices (usd int)")
        for cluster, database, roles in ((self.core_cluster, self.core_database, (CAPTURE, APPLY, FENCE)),
                                         (self.warehouse_cluster, self.warehouse_database, (APPLY, COMPANION, AUDITOR, OFFICE))):
            lines = ["local all postgres trust", f"local {database} {','.join(roles)} trust"]
            with open(os.path.join(cluster.data, "pg_hba.conf"), "w", encoding="ascii") as f:
                f.write("\n".join(lines) + "\n")
            cluster.reload()
        return self

    def prepare_all(self):
        for name, text in {**MODELS, "reports.yaml": DEFINITIONS}.items():
            os.makedirs(os.path.dirname(os.path.join(self.folder, "models", name)), exist_ok=True)
            self.write(name if name == "reports.yaml" else os.path.join("models", name), text)
        core, warehouse = self.core_cluster, self.warehouse_cluster
        self.configure({
            "core": {"connect": core.conninfo(self.core_database, APPLY)},
            "capture": {"connect": core.conninfo(self.core_database, CAPTURE), "look_interval": "1 s"},
            "warehouse": {"connect": warehouse.conninfo(self.warehouse_database, APPLY)},
            "mirrors": {"tables": ["core_public_ids"]},
            "models": {"path": os.path.join(self.folder, "models")},
            "reports": {"definitions": os.path.join(self.folder, "reports.yaml"),
                        "connect": warehouse.conninfo(self.warehouse_database, COMPANION),
                        "core_connect": core.conninfo(self.core_database, FENCE)}})
        for side, conninfo in (("core", self.core_conninfo), ("warehouse", self.warehouse_conninfo)):
            code, sql, err = self.run("init", "--print-sql", side)
            assert code == 0, err
            self.as_dba(conninfo, sql)
        self.init()
        with open(os.path.join(ROOT, "deploy", "grants", "readers.sql"), encoding="utf-8") as f:
            sql = f.read()
        for _ in range(2):      # again is harmless
            self.as_dba(self.warehouse_conninfo, sql, "-v", f"companion={COMPANION}", "-v", f"auditor={AUDITOR}",
                        "-v", f"office={OFFICE}")
        self.make_folders()

    @staticmethod
    def as_dba(conninfo, sql, *options):
        subprocess.run(["psql", conninfo, "-X", "-q", "-v", "ON_ERROR_STOP=1", *options], input=sql, text=True, check=True,
                       capture_output=True)

    def make_folders(self):
        """The state folder as deploy/systemd/rolag.tmpfiles has it."""
        with open(os.path.join(ROOT, "deploy", "systemd", "rolag.tmpfiles"), encoding="utf-8") as f:
            lines = [line.split() for line in f if line.startswith(("d ", "f "))]
        made = [line for line in lines if line[1].startswith("/var/lib/rolag")]
        assert len(made) >= 6
        for kind, path, mode, user, group, *_ in made:
            path = path.replace("/var/lib/rolag", self.state_dir)
            if kind == "d":
                os.makedirs(path, exist_ok=True)
            else:
                open(path, "a", encoding="ascii").close()
            if AS_ROOT:
                os.chown(path, USERS[user], USERS[group])
            os.chmod(path, int(mode, 8))

    def start_role(self, role, config=None, log=None):
        user = "rolag-reports" if role == "reports" else "rolag"
        process = Process(role, as_user(user, self.program, role, "--config", config or self.config),
                          log or os.path.join(self.folder, role + ".log"), self.env)
        self.processes.append(process)
        return process


@pytest.fixture(scope="module")
def estate():
    settings = {"max_wal_senders": 20, "max_replication_slots": 20}
    with Cluster("core", settings=settings) as core, Cluster("warehouse") as warehouse:
        pack = tempfile.mkdtemp(prefix="rolag-pack-")
        shutil.copy(os.path.join(PACK, ROLE + ".yaml"), pack)
        os.chmod(pack, 0o755)
        p = Estate("lana", tempfile.mkdtemp(prefix="rolag-privileges-"), core, warehouse, warehouse, pack=pack, land=[ROLE])
        try:
            p.create()
            p.prepare_all()
            with p.writing() as conn:
                for number in range(1, 200):
                    write_role(conn, number, 1)
                conn.execute("insert into core_public_ids select 'id' || n, gen_random_uuid(), now() from generate_series(1, 50) n")
            p.start()
            yield p
        finally:
            for process in p.processes:
                process.kill9()
            shutil.rmtree(p.folder, ignore_errors=True)
            shutil.rmtree(pack, ignore_errors=True)


# ---- it is enough ----------------------------------------------------------------------------------------------------

def test_everything_works_with_the_roles_that_the_sql_makes(estate):
    p = estate
    p.wait_applied()
    # Each process comes as its own role, and as no other.
    who = dict(p.core("select distinct usename, 1 from pg_stat_activity where usename like 'lana%%'"))
    assert CAPTURE in who and p.core("select usename from pg_stat_replication") == [(CAPTURE,)]
    # The stream, a poison event and its way out.
    with p.writing() as conn:
        write_role(conn, 1, 2)
        write_role(conn, 2, 2, {"to": "x"}, "teleported")
    p.wait_applied()
    assert p.warehouse("select count(*) from rolag.quarantine") == [(1,)]
    assert p.run("quarantine", "skip", ROLE, entity(2), "--reason", "a test")[0] == 0
    wait_for("the skip", lambda: p.warehouse("select state from rolag.quarantine") == [("skipped",)])
    # Tables read anew: of a mirror a new table takes the place of the old one.
    before = p.warehouse("select 'raw.core_public_ids'::regclass::oid")
    code, out, err = p.run("sync", "--all", "--wait")
    assert code == 0, out + err
    assert p.warehouse("select 'raw.core_public_ids'::regclass::oid") != before
    # A rebuild and its swap.
    definition(p, ROLE, "definition: 1", "definition: 2")
    definition(p, ROLE, "columns:\n", "columns:\n  is_extended: {type: bool, flag: {raise: [permission_set_added]}}\n")
    assert p.apply.stop() == 0
    p.start_apply()
    wait_for("the swap", lambda: p.check_alive() or p.warehouse(
        "select definition, state from rolag.relation where name = %s", ROLE) == [(2, "live")])
    # All of it is true, and the companion makes reports of it.
    code, out, err = p.run("verify", "--full")
    assert code == 0, out + err
    for _ in range(2):
        code, out, err = p.run("report", "run", "--wait", "--accept-quarantine")
        assert code == 0, out + err + p.reports.text()[-3000:]
    p.check_whole(out.splitlines()[0])
    code, out, err = p.run("check")
    assert "FAIL" not in out and "capture.connect: replication connection" in out, out
    assert p.run("init")[1].endswith("Nothing to do: everything was there.\n")
    # Who only looks.
    with psycopg.connect(p.warehouse_cluster.conninfo(p.warehouse_database, OFFICE)) as conn:
        assert conn.execute("select count(*) from outputs.report_roles").fetchone() == (199,)
    with psycopg.connect(p.warehouse_cluster.conninfo(p.warehouse_database, AUDITOR)) as conn:
        assert conn.execute("select count(*) from rolag.report_run where state = 'published'").fetchone() == (2,)
        assert conn.execute("select id, reason is not null from rolag.quarantine").fetchone() == (entity(2), True)
        assert conn.execute("select count(name) from rolag.sync").fetchone() == (0,)


# ---- and no more -----------------------------------------------------------------------------------------------------

# What nobody of ours may do anywhere.
NOBODY = [
    "create role mine", "alter role {me} superuser", "alter role {me} bypassrls", "grant {other} to {me}", "set role postgres",
    "set role {other}", "set session authorization postgres", "alter role {other} password 'x'", "drop role {other}",
    "create database mine", "create table public.mine (a int)", "alter system set work_mem = '1MB'",
    "alter database {db} set work_mem = '1MB'", "select rolpassword from pg_authid", "select pg_read_file('postgresql.conf')",
    "select pg_ls_dir('.')", "copy (select 1) to '/tmp/rolag-mine'", "copy (select 1) to program 'true'",
    "select lo_import('/etc/passwd')", "select pg_reload_conf()", "select pg_switch_wal()",
    "select pg_terminate_backend({backend})", "create publication mine for all tables",
]
NO_SCHEMA = ["create schema mine"]
NO_REPLICATION = ["select pg_create_logical_replication_slot('mine', 'pgoutput')",
                  "select pg_create_physical_replication_slot('mine')"]
CORE_WRITES = [
    "insert into core_role_events select * from core_role_events", "update core_role_events set event = '{{}}'",
    "delete from core_role_events", "truncate core_role_events", "insert into core_public_ids values ('x', gen_random_uuid(), now())",
    "update core_public_ids set id = 'x'", "truncate core_public_ids cascade", "drop table core_public_ids cascade",
    "alter table core_role_events add column mine int", "alter table core_role_events disable trigger all",
    "alter table core_public_ids replica identity full", "create index on core_role_events (sequence)",
    "create trigger mine before insert on core_role_events execute function suppress_redundant_updates_trigger()",
    "lock table core_role_events in share mode", "lock table core_role_events in access exclusive mode",
    "select * from core_role_events for update", "grant select on customer_secrets to {me}",
    "alter publication lana_inserts add table customer_secrets", "alter publication lana_inserts set (publish = 'insert')",
    "drop publication lana_inserts", "create publication mine for table customer_secrets",
]
CORE_SECRETS = ["select * from customer_secrets", "copy customer_secrets to stdout", "select secret from customer_secrets",
                "select * from core_customer_events", "select * from core_users"]
CORE_LANDED = ["select * from core_role_events", "select * from core_public_ids", "copy core_role_events to stdout"]
RAW_WRITES = [
    "insert into raw.{t} select * from raw.{t}", "update raw.{t} set version = 0", "delete from raw.{t}", "truncate raw.{t}",
    "drop table raw.{t}", "alter table raw.{t} add column mine int", "create table raw.mine (a int)", "drop schema raw cascade",
    "create view raw.mine as select 1", "lock table raw.{t} in exclusive mode",
    "create trigger mine before insert on raw.{t} execute function suppress_redundant_updates_trigger()",
    "alter table raw.{t} owner to {me}",
]
CONTROL_WRITES = [
    "update rolag.ledger set applied_lsn = '0/1'", "insert into rolag.ledger values ('lana', '0/1', 1)",
    "delete from rolag.ledger", "update rolag.fence set epoch = 99", "update rolag.relation set state = 'parked'",
    "delete from rolag.quarantine", "update rolag.quarantine set state = 'skip'", "insert into rolag.repair values ('a', 'b', 'c', 1)",
    "insert into rolag.fence_seen values ('x', 'lana', '0/1')", "delete from rolag.quarantine_audit",
    "insert into rolag.migration values (99, 'x')", "delete from rolag.report_run", "delete from rolag.report_file",
    "update rolag.report_file set sha256 = 'x'", "update rolag.report_pack set text = 'x'", "drop schema rolag cascade",
    "create table rolag.mine (a int)",
]
REPORT_WRITES = ["insert into rolag.report_run (pipeline, type, reports, requester) values ('lana', 'manual', '{{}}', 'me')",
                 "update rolag.report_run set state = 'queued'", "delete from rolag.model_run", "truncate rolag.report_run"]
RAW_READS = ["select * from raw.{t}", "select * from raw.core_public_ids", "copy raw.{t} to stdout"]
SHOWN = ["select * from outputs.report_roles", "select * from intermediate.int_roles"]

DENIED = [
    ("core", CAPTURE, NOBODY + NO_SCHEMA + CORE_WRITES + CORE_SECRETS + CORE_LANDED),
    ("core", APPLY, NOBODY + NO_SCHEMA + CORE_WRITES + CORE_SECRETS),
    ("core", FENCE, NOBODY + NO_SCHEMA + NO_REPLICATION + CORE_WRITES + CORE_SECRETS + CORE_LANDED +
     ["select pg_drop_replication_slot('rolag_lana')", "select pg_logical_slot_peek_changes('rolag_lana', null, null)"]),
    ("warehouse", APPLY, NOBODY + NO_SCHEMA + NO_REPLICATION + SHOWN +
     ["select * from ext.prices", "insert into ext.prices values (1)", "drop schema outputs cascade",
      "create view outputs.mine as select 1", "select * from {run}.report_roles"]),
    ("warehouse", COMPANION, NOBODY + NO_REPLICATION + RAW_WRITES + CONTROL_WRITES +
     ["select * from ext.prices", "select * from rolag.sync_row", "update rolag.model_publication set published_at = now()"]),
    ("warehouse", AUDITOR, NOBODY + NO_SCHEMA + NO_REPLICATION + RAW_WRITES + CONTROL_WRITES + REPORT_WRITES + RAW_READS + SHOWN +
     ["select event from rolag.quarantine", "select * from rolag.quarantine", "select last_key from rolag.sync",
      "select * from rolag.sync_row", "select * from ext.prices", "select * from {run}.report_roles"]),
    ("warehouse", OFFICE, NOBODY + NO_SCHEMA + NO_REPLICATION + RAW_WRITES + CONTROL_WRITES + REPORT_WRITES + RAW_READS +
     ["select * from rolag.ledger", "select * from rolag.report_run", "select * from intermediate.int_roles", "select * from ext.prices",
      "select * from {run}.report_roles", "insert into outputs.report_roles values ('a', 'b')", "delete from outputs.report_roles",
      "create table outputs.mine (a int)", "drop view outputs.report_roles"]),
]


def state_of(conn, sql):
    """The SQLSTATE that a statement ends with; None: it was done (and is taken back)."""
    try:
        if sql.startswith(("create database", "alter system")):     # no transaction can hold them
            conn.execute(sql)
            return None
        with conn.transaction(force_rollback=True):
            if " to stdout" in sql:
                with conn.cursor().copy(sql) as copy:
                    list(copy)
            else:
                conn.execute(sql)
    except psycopg.Error as error:
        return error.sqlstate
    return None


@pytest.mark.parametrize("side, role, statements", DENIED, ids=[f"{s}-{r}" for s, r, _ in DENIED])
def test_a_role_may_not_do_what_it_need_not(estate, side, role, statements):
    p = estate
    cluster, database, dba = (p.core_cluster, p.core_database, p.core) if side == "core" else \
        (p.warehouse_cluster, p.warehouse_database, p.warehouse)
    run = "" if side == "core" else dba("select relation_schema from rolag.model where name = 'report_roles' limit 1")[0][0]
    with psycopg.connect(cluster.conninfo("postgres")) as held, psycopg.connect(cluster.conninfo(database, role),
                                                                              autocommit=True) as conn:
        names = {"me": role, "other": {CAPTURE: APPLY}.get(role, APPLY if role != APPLY else FENCE if side == "core" else COMPANION),
                 "db": database, "backend": held.info.backend_pid, "t": ROLE, "run": run}
        wrong = {}
        for sql in statements:
            sql = sql.format(**names)
            if (state := state_of(conn, sql)) != "42501":
                wrong[sql] = state
        assert wrong == {}
        if side == "warehouse" and role != APPLY:       # what one has one may not give: a warning, and nothing given
            try:
                conn.execute(f"grant select on raw.{ROLE} to public")
            except psycopg.errors.InsufficientPrivilege:
                pass
            assert dba(f"select relacl::text !~ '[{{,]=' from pg_class where oid = 'raw.{ROLE}'::regclass") == [(True,)]
    assert dba("select rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication from pg_roles where rolname = %s", role) == \
        [(False, False, False, False, side == "core" and role in (CAPTURE, APPLY))]
    assert dba("select count(*) from pg_auth_members m join pg_roles r on r.oid = m.member where r.rolname = %s", role) == [(0,)]


def test_what_is_denied_is_denied_for_the_right_and_not_for_the_words(estate):
    """Whoever may, may: the statements of the tables above are done for a superuser, but those that no transaction can hold."""
    p = estate
    for side, dba in (("core", p.core_cluster.conninfo(p.core_database)), ("warehouse", p.warehouse_cluster.conninfo(p.warehouse_database))):
        run = "x" if side == "core" else p.warehouse("select relation_schema from rolag.model where name = 'report_roles' limit 1")[0][0]
        with psycopg.connect(dba, autocommit=True) as conn:
            for at, role, statements in DENIED:
                for sql in statements if at == side else ():
                    sql = sql.format(me=role, other="postgres", db="postgres", backend=0, t=ROLE, run=run)
                    if re.match("select (pg_|lo_)|copy .* to (program|'/)|alter system|create database|(grant|set|drop|alter) .*postgres|"
                                "lock|truncate|drop|set session", sql):
                        continue
                    assert state_of(conn, sql) not in ("42601", "42P01", "42703", "3F000", "42883", "42704"), sql


@pytest.mark.parametrize("side, role", [(s, r) for s, r, _ in DENIED])
def test_no_role_gets_into_another_database(estate, side, role):
    cluster = estate.core_cluster if side == "core" else estate.warehouse_cluster
    for database, more in (("postgres", {}), ("template1", {}), ("postgres", {"replication": "true"})):
        with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry"):
            psycopg.connect(cluster.conninfo(database, role, **more))


def test_replication_is_what_the_threat_model_says_it_is(estate):
    """One database in pg_hba.conf does not make REPLICATION small: deploy/THREATS.md must not promise it."""
    with open(os.path.join(ROOT, "deploy", "THREATS.md"), encoding="utf-8") as f:
        assert "copy the whole cluster" in f.read()
    copied = subprocess.run(["psql", estate.core_cluster.conninfo(estate.core_database, CAPTURE, replication="database"), "-X", "-A", "-t",
                             "-c", "BASE_BACKUP (CHECKPOINT 'fast')"], capture_output=True, check=False)
    assert SECRET.encode() in copied.stdout, copied.stderr


# ---- users of the machine --------------------------------------------------------------------------------------------

def may(user, *words):
    done = subprocess.run(as_user(user, *words), capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        assert "denied" in done.stderr or "not permitted" in done.stderr or "not ours" in done.stdout + done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.skipif(not AS_ROOT, reason="only root becomes another user")
def test_the_companions_user_does_not_reach_the_spool_and_the_group_reads_counters_only(estate):
    p = estate
    state = p.state_dir
    segments = p.spool_segments()
    assert segments and p.folders()
    some = os.path.join(state, "spool", segments[0])
    report = p.path(p.folders()[0], "manifest.json")
    assert may("rolag", "cat", some) and may("rolag-reports", "cat", report) and may("clerk", "cat", report)
    assert not may("operator", "cat", report), "reports are rows"
    for user in ("rolag-reports", "operator", "stranger"):
        assert not may(user, "ls", os.path.join(state, "spool")), user
        assert not may(user, "cat", some) and not may(user, "cat", os.path.join(state, "spool", "applied")), user
        assert not may(user, "touch", os.path.join(state, "mine")) and not may(user, "rm", os.path.join(state, "apply.counters")), user
        for name in ("capture.lock", "apply.lock"):
            assert not may(user, "cat", os.path.join(state, name)), (user, name)
    for user in ("rolag", "rolag-reports", "operator"):
        for role in ("capture", "apply", "reports"):
            assert may(user, "cat", os.path.join(state, role + ".counters")), (user, role)
    for role in ("capture", "apply", "reports"):
        path = os.path.join(state, role + ".counters")
        assert not may("operator", "sh", "-c", f": >> {path}") and not may("stranger", "cat", path)
    assert not may("rolag", "sh", "-c", f": >> {os.path.join(state, 'reports.counters')}")
    assert not may("rolag-reports", "sh", "-c", f": >> {os.path.join(state, 'apply.counters')}")
    assert not may("clerk", "sh", "-c", f": >> {report}") and not may("stranger", "cat", report)
    done = subprocess.run(as_user("operator", p.program, "status", "--config", p.config), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("Healthy"), done.stdout + done.stderr
    done = subprocess.run(as_user("operator", p.program, "spool", "ls", "--config", p.config), capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Permission denied" in done.stderr, done.stderr


# ---- modes -----------------------------------------------------------------------------------------------------------

# What is below state_dir: the table in deploy/THREATS.md. A name that nobody thought of fails.
MODES = [
    (r"", 0o750), (r"spool", 0o700), (r"spool/[^/]+", 0o600), (r"(capture|apply|reports)\.lock", 0o600),
    (r"(capture|apply|reports)\.counters", 0o640), (r"capture\.publications", 0o640), (r"reports\.build\.log", 0o600),
    (r"reports", 0o2750), (r"reports/[^/]+(/[^/]+)?", 0o2750), (r"reports/([^/]+/){1,2}[^/]+\.(csv|xml|txt|json|sha256)", 0o640),
]


def modes_below(folder):
    found = {}
    for at, folders, names in os.walk(folder):
        for name in ["", *names] if at == folder else names + folders:
            path = os.path.join(at, name) if name else at
            found[os.path.relpath(path, folder).strip(".") if not name else os.path.relpath(path, folder)] = \
                (os.stat(path).st_mode, stat.S_ISDIR(os.stat(path).st_mode))
        if at == folder:
            for name in folders:
                found[name] = (os.stat(os.path.join(at, name)).st_mode, True)
    return found


def modes_seen(state_dir, cleared=0):
    """Looks at every mode, less the bits cleared; the patterns that something fitted."""
    seen = set()
    for path, (mode, is_folder) in modes_below(state_dir).items():
        wanted = [(pattern, bits) for pattern, bits in MODES
                  if re.fullmatch(pattern, path) and is_folder == (bits & 0o100 != 0)]
        assert wanted, f"{path}: nobody said what mode it has"
        assert stat.S_IMODE(mode) == wanted[0][1] & ~cleared, f"{path}: {stat.S_IMODE(mode):o}, not {wanted[0][1]:o}"
        seen.add(wanted[0][0])
    return seen


def test_files_have_their_modes_whatever_the_umask_is(estate):
    assert modes_seen(estate.state_dir) == {pattern for pattern, _ in MODES}, "a kind of file was not there"


def test_folders_and_files_of_before_that_others_may_read_are_told(estate):
    p = estate
    spool, run = os.path.join(p.state_dir, "spool"), p.path(p.folders()[0])
    wide = {p.state_dir: (0o755, "state_dir"), spool: (0o750, "spool.dir"), p.target: (0o2755, "reports.target"),
            os.path.join(spool, "applied"): (0o644, "spool.dir"), run: (0o755, "reports.target"),
            os.path.join(p.state_dir, "apply.counters"): (0o646, "state_dir")}
    before = {path: stat.S_IMODE(os.stat(path).st_mode) for path in wide}
    assert "FAIL" not in p.run("check")[1]
    try:
        for path, (mode, _) in wide.items():
            os.chmod(path, mode)
        code, out, _ = p.run("check")
        mends = {path: re.search(rf"^FAIL  {re.escape(key)}: {re.escape(path)} has mode .*\n +mend: (chmod \S+ {re.escape(path)})$", out, re.M)
                 for path, (_, key) in wide.items()}
        assert code == 1 and all(mends.values()) and out.count("FAIL") == len(wide), out
        for mend in mends.values():
            subprocess.run(mend[1].split(), check=True)
        assert "FAIL" not in p.run("check")[1]
        # Several of a kind are told in one line, whose mend mends them all.
        for name in ("apply.counters", "capture.counters", "reports.counters"):
            os.chmod(os.path.join(p.state_dir, name), 0o644)
        (what, mend), = re.findall(r"^FAIL  (.*)\n +mend: (find .*)$", p.run("check")[1], re.M)
        assert "and so have 2 others there" in what, what
        subprocess.run(["sh", "-c", mend], check=True)
        assert "FAIL" not in p.run("check")[1]
    finally:
        for path, mode in before.items():
            os.chmod(path, mode)
