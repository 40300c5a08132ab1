"""A pipeline with reports: definitions, a build command in SQL, the companion, and looks at what it made."""
import hashlib
import json
import os
import shlex
import signal

from pipeline import CORE_TEMPLATE, ROLE, Pipeline, prepare_core, wait_for
from program import ROLAG

DEFINITIONS = """language: 1
reports:
  - id: nrp_1/01_roles
    name: roles
    title: Every role
    model: roles
    formats: [csv, xml, txt]
    order: [id]
    xml: {schema: roles, namespace: "urn:test:roles", root: all, row: role, min_rows: 1}
    columns:
      - {name: id, type: text, length: 36}
      - {name: name, type: text, max_length: 200, nillable: true}
      - {name: version, type: int}
  - id: nrp_1/02_day
    name: day
    title: A day
    model: day
    formats: [csv]
    as_of: true
    order: [day]
    columns:
      - {name: day, type: date, format: compact}
  - id: other/empty
    name: empty
    title: Nothing
    empty: true
    formats: [csv, xml]
    xml: {schema: empty, namespace: "urn:test:empty", root: all, row: one, min_rows: 1}
    columns:
      - {name: a, type: text, nillable: true}
      - {name: b, type: decimal, digits: 5, fraction: 2, nillable: true}
"""
BUILD = f"""create table :"schema".roles as select id, name, version from raw.{ROLE}_latest;
create table :"schema".day as select coalesce(nullif(:'as_of', ''), '2000-01-01')::date as day;"""


class Companion(Pipeline):
    """One with a companion: `reports` is its process."""

    reports = None

    def create(self):
        """No oracle is asked: reports are judged by their rows."""
        prepare_core(self.core_cluster)
        self.core_cluster.psql(f"create database {self.core_database} template {CORE_TEMPLATE}", database="postgres")
        self.warehouse_cluster.psql(f"create database {self.warehouse_database}", database="postgres")
        return self

    def prepare(self, definitions=DEFINITIONS, build=BUILD, **settings):
        """Files and configuration; the databases are initialised."""
        self.write("reports.yaml", definitions)
        self.write_build(build)
        self.configure({"reports": {"definitions": os.path.join(self.folder, "reports.yaml"), "build": self.command(),
                                    **settings}})
        self.init()
        return self

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as f:
            f.write(text)

    def write_build(self, sql):
        self.write("build.sql", sql)

    def command(self):
        return f"psql -X -q -v ON_ERROR_STOP=1 -v schema=$ROLAG_SCHEMA -v as_of=$ROLAG_AS_OF -f {self.folder}/build.sql " \
               f"{shlex.quote(self.warehouse_conninfo)}"

    def start_reports(self):
        self.reports = self.start_role("reports")
        return self.reports

    def start(self):
        super().start()
        self.start_reports()
        self.wait_ready()
        return self

    def wait_ready(self):
        wait_for("the companion to be at the queue", lambda: self.reports.lines("at the warehouse's queue"))

    def run_command(self):
        return [ROLAG, "run", "--config", self.config]

    # requests ---------------------------------------------------------------------------------
    def ask(self, *options, code=0):
        """`rolag report run`; the run's id."""
        got, out, err = self.run("report", "run", *options)
        assert got == code, out + err
        return out.splitlines()[0] if out else err

    def one(self, run):
        """A run as `rolag report show --json` has it."""
        code, out, err = self.run("report", "show", run, "--json")
        assert code == 0, err
        return json.loads(out)

    def state(self, run):
        return self.warehouse("select state from rolag.report_run where id = %s", run)[0][0]

    def wait_ended(self, run, state="published"):
        def ended():
            assert self.reports is None or self.reports.running(), self.reports.text()[-2000:]
            return self.warehouse("select state, reason from rolag.report_run where id = %s and ended_at is not null", run)
        found = wait_for(f"run {run} to end", ended)[0]
        assert found[0] == state, found
        return self.one(run)

    def press(self):
        self.reports.signal(signal.SIGUSR1)

    # files ------------------------------------------------------------------------------------
    @property
    def target(self):
        return self.settings["reports"].get("target") or os.path.join(self.state_dir, "reports")

    def path(self, run, *names):
        return os.path.join(self.target, run, *names)

    def read(self, run, *names):
        with open(self.path(run, *names), encoding="utf-8", newline="") as f:
            return f.read()

    def manifest(self, run):
        return json.loads(self.read(run, "manifest.json"))

    def csv_rows(self, run, name="nrp_1/roles.csv"):
        return self.read(run, name).splitlines()[1:]

    def digest(self, run):
        """{path: sha256} of everything in a run's folder."""
        found = {}
        for folder, _, names in os.walk(self.path(run)):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    found[os.path.relpath(path, self.path(run))] = hashlib.sha256(f.read()).hexdigest()
        return found

    def folders(self):
        """Names below the target."""
        return sorted(os.listdir(self.target)) if os.path.isdir(self.target) else []

    def schemas(self):
        return sorted(n for n, in self.warehouse("select nspname from pg_namespace where nspname like 'rolag\\_command\\_%%'"))

    def check_whole(self, run):
        """What is visible under the run's id is complete, and is what the control tables say."""
        manifest = self.manifest(run)
        sums = dict(line.split("  ")[::-1] for line in self.read(run, "files.sha256").splitlines())
        found = self.digest(run)
        recorded = dict(self.warehouse("select path, sha256 from rolag.report_file where run_id = %s and path is not "
                                       "null", run))
        listed = {f["path"]: f["sha256"] for f in manifest["files"] if f["path"]}
        assert {p: h for p, h in found.items() if "/" in p} == sums == listed == recorded
        return manifest

