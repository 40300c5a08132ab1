"""The button: all reports of this moment. Shows the run's states as they pass, its files, and that they are fresh.

Freshness is proven by one deposit, committed just before the click: the transfer report counts it, and the run's
fence and watermark are behind its commit.
"""
import csv
import datetime
import json
import os
import time

from psycopg.rows import dict_row

import outside
from estate import Failed
from screen import duration, size
from steps import Step

# What passes between two columns of a run, and what happens meanwhile.
STATES = [("queued", "requested_at", "waiting_at", "its turn"),
          ("waiting", "waiting_at", "building_at", "until the warehouse has what was committed before"),
          ("building", "building_at", "writing_at", "models from one snapshot, and their tests"),
          ("writing", "writing_at", "ended_at", "files, checked against limits and XML schemas")]
TRANSFERS = "uif_07/diario_otros_medios_electronicos.csv"
HEADS = ["nrp_91/saldo_cuenta.csv", "nrp_92/referencia.xml", "other/calculo_de_riesgo_neto.csv"]
HEAD_LINES = 3
# What the transfer report must have, by the core's own state of things: cents.
COUNTED = ("select (select count(*) from core_deposits where status = 'Confirmed' and amount >= 2500000)"
           " + (select count(*) from core_withdrawals where status = 'Confirmed' and amount >= 2500000)")
RUN_LIMIT = 120


def ask_outside(warehouse, estate):
    """The identity provider's answers and today's prices; how many answers, how many prices."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return outside.answer(warehouse, now), outside.prices(warehouse, 1, now, estate.load.report["price_shift"])


def press(screen, estate, core, warehouse, sabotage=False):
    """True when the files hold what was committed before the click, and only then."""
    with Step(screen, "the world outside") as step:
        answers, prices = ask_outside(warehouse, estate)
        step.text = f"the world outside: {answers} answers of the identity provider, {prices} market prices"
    deposit, number, cents, before = last_deposit(estate, core)
    screen.say()
    screen.say("  " + screen.style("The button", "bold"))
    screen.say("  " + screen.style(f"A deposit of ${cents / 100:,.2f} is committed in the core, and at once:", "dim"))
    screen.say("  " + screen.style("rolag report run", "dim"))
    screen.say()
    run = follow(screen, warehouse, ask(estate))
    folder = os.path.join(estate.reports, str(run["id"]))
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as f:
        manifest = json.load(f)
    if sabotage:
        leave_out(os.path.join(folder, TRANSFERS), number)
    show_heads(screen, folder)
    show_manifest(screen, folder, manifest)
    return show_freshness(screen, core, warehouse, run, manifest, folder, deposit, number, before)


def leave_out(path, number):
    """What the tests do to a file."""
    with open(path, encoding="utf-8") as f:
        lines = f.readlines()
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(line for line in lines if not line.startswith(number + ","))


def last_deposit(estate, core):
    """(id, number, cents, how many the transfer report had to have before it) of a deposit of just now."""
    before, = core.execute(COUNTED).fetchone()
    estate.load.order()
    estate.wait(lambda: estate.load.phase() == "deposited", "a large deposit", 60)
    id_ = estate.load.report["deposit"]
    return (id_, *core.execute("select public_id, amount from core_deposits where id = %s", (id_,)).fetchone(), before)


def ask(estate):
    """The id of the new run."""
    code, out, err = estate.command("report", "run")
    if code:
        raise Failed(f"rolag report run: exit code {code}\n{out}{err}".rstrip())
    return out.split()[0]


# ---- the run ------------------------------------------------------------------------------------

def follow(screen, warehouse, id_):
    """Shows the states until the run has ended; its row."""
    shown, deadline = 0, time.monotonic() + RUN_LIMIT
    with warehouse.cursor(row_factory=dict_row) as cur:
        while True:
            row = cur.execute("select * from rolag.report_run where id = %s", (id_,)).fetchone()
            shown = show_states(screen, row, shown)
            if row["state"] == "published":
                screen.say(f"    {'published':<11}" + screen.style(f"{took(row, 'requested_at', 'ended_at'):>9}  "
                                                                   "from the click to the files", "bold"))
                return row
            if row["ended_at"]:
                raise Failed(f"the run of reports has {row['state']}: {row['reason']}")
            if time.monotonic() > deadline:
                raise Failed(f"the run of reports is {row['state']} after {RUN_LIMIT} s: {row['reason']}")
            time.sleep(0.02)


def took(row, begin, end):
    return duration((row[end] - row[begin]).total_seconds())


def show_states(screen, row, shown):
    """A line for each state that is over, and the one that is not in the region; how many lines there are."""
    for n, (state, begin, end, what) in enumerate(STATES):
        if n >= shown and row[end]:
            screen.say(screen.cut(f"    {state:<11}{took(row, begin, end):>9}  " + screen.style(what, "dim")))
            shown = n + 1
        elif n == shown and row[begin]:
            screen.draw([f"    {screen.style(f'{state:<11}', 'cyan')}{'':>9}  {screen.style(what, 'dim')}"])
    return shown


# ---- the files ----------------------------------------------------------------------------------

def clip(screen, text):
    """As much of a line as fits."""
    room = screen.width() - 4
    return text if len(text) <= room else text[:room - 1] + "…"


def show_heads(screen, folder):
    screen.say()
    screen.say("  " + screen.style("The files", "bold") + f" are in {os.path.dirname(folder)}/")
    screen.say("  " + os.path.basename(folder) + "/, for example")
    for name in HEADS:
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            lines = f.read().splitlines()
        screen.say()
        screen.say(f"  {name}" + screen.style(f"  {len(lines)} lines", "dim"))
        for line in lines[:HEAD_LINES]:
            screen.say("    " + screen.style(clip(screen, line), "dim"))


def show_manifest(screen, folder, manifest):
    """What the manifest says, in short."""
    files, build, fresh = manifest["files"], manifest["build"], manifest["freshness"]
    written = [f for f in files if f["path"]]
    failed = [t for t in build["tests"] if t["failures"]]
    checked = [f for f in written if "valid" in f]
    rows = [
        ("files", f"{len(written)}, {size(sum(f['bytes'] for f in written))}, each with its SHA-256; of "
                  f"{len({f['report'] for f in files})} reports"),
        ("XML", f"{sum(f['valid'] for f in checked)} of {len(checked)} valid by their schemas; "
                f"{len(files) - len(written)} more, without rows, are omitted"),
        ("models", f"{len(build['models'])}, {len(build['tests'])} tests, {len(failed)} of them with a warning"),
        ("outside", ", ".join(f"{s['table']} {s['state']}" for s in build["sources"])),
        ("exceptions", f"{len(build['exceptions'])}"),
        ("watermark", f"{fresh['watermark_lsn']}  committed {fresh['watermark_committed_at'][:23]}"),
    ]
    screen.say()
    screen.say("  manifest.json" + screen.style(f"  {size(os.path.getsize(os.path.join(folder, 'manifest.json')))}", "dim"))
    for name, text in rows:
        screen.say(screen.cut(f"    {screen.style(f'{name:<11}', 'dim')}{text}"))
    screen.say()


# ---- the proof ----------------------------------------------------------------------------------

def position(lsn):
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


def show_freshness(screen, core, warehouse, run, manifest, folder, deposit, number, before):
    """The deposit is in the file, once, and the file has what the core has; the positions are in order."""
    with open(os.path.join(folder, TRANSFERS), encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    mine = sum(row["numeroregistrobancario"] == number for row in rows)
    wanted, = core.execute(COUNTED).fetchone()
    commit, at = warehouse.execute("select _lsn::text, _committed_at from raw.core_deposit_events_rollup where id = %s",
                                   (deposit,)).fetchone()
    fence, watermark = (manifest["freshness"][f"{name}_lsn"] for name in ("fence", "watermark"))
    counted = mine == 1 and len(rows) == wanted > before
    ordered = position(commit) <= position(fence) <= position(watermark)
    early = duration((run["requested_at"] - at).total_seconds())
    screen.done(f"the deposit of {early} before is in the transfer report: {before} + 1 rows" if counted else
                f"the transfer report has it {mine} times, and {len(rows)} rows; the core has {wanted}", good=counted)
    screen.done(f"its commit {commit} ≤ fence {fence} ≤ watermark {watermark}", good=ordered)
    return counted and ordered
