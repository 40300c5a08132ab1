"""How transactions get into a core database: one by one, in bulk, or into a file."""
import json
import select
import time
from collections import deque

import psycopg
from psycopg import pq

from .nasty import canonical, encode
from .world import EVENT_TABLES, TABLES

EVENT_COLUMNS = "(id, sequence, event_type, event, context, recorded_at)"
# Index tables such that a referenced one comes before the one that refers to it.
INDEX_ORDER = ["core_public_ids", "core_charts", "core_parties", "core_collaterals", "core_committees",
               "core_customers", "core_policies", "core_approval_processes", "core_credit_facility_proposals",
               "core_pending_credit_facilities", "core_credit_facilities", "core_payments", "core_obligations",
               "core_deposit_accounts"]
INDEX_ORDER += [index for _, index in TABLES.values() if index not in INDEX_ORDER]
INDEX_ORDER += ["cala_journals", "cala_accounts", "cala_account_sets", "cala_account_set_member_accounts",
                "cala_account_set_member_account_sets", "cala_balance_history", "cala_cumulative_effective_balances",
                "inbox_events"]

_plain = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def encoder(world):
    """JSON text of a payload; the careful one only where payloads may hold marked numbers."""
    return encode if world.mutate else _plain


def literal(value):
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("'", "''") + "'"


def listed(columns):
    return ", ".join(f'"{c}"' for c in columns)     # one is called values


def insert(table, columns):
    return f"insert into {table} ({listed(columns)}) values ({', '.join(map(literal, columns.values()))});"


def update(table, id_, columns):
    changes = ", ".join(f"{c} = {literal(v)}" for c, v in columns.items())
    return f"update {table} set {changes} where id = '{id_}';"


def script(tx, to_json):
    """The transaction as SQL, from begin to commit; one multi-row INSERT per entity, as the core writes."""
    parts = ["begin;"]
    parts += [insert(table, columns) for table, columns in tx.inserts]
    context = literal(tx.context)
    for rows in tx.by_entity.values():
        values = ",".join(f"('{id_}',{seq},'{type_}',{literal(to_json(body))},{context},'{at}')"
                          for _, id_, seq, type_, body, at in rows)
        parts.append(f"insert into {rows[0][0]} {EVENT_COLUMNS} values {values};")
    parts += [update(table, id_, columns) for table, id_, columns in tx.updates]
    parts.append("commit;")
    return "".join(parts)


class Summary:
    """What was committed, counted as it was committed."""

    def __init__(self):
        self.transactions = self.events = self.reconnects = 0
        self.tables = dict.fromkeys(EVENT_TABLES, 0)
        self.types = set()
        self.started = time.monotonic()

    def add(self, tx):
        self.transactions += 1
        for rows in tx.by_entity.values():
            table = rows[0][0]
            self.events += len(rows)
            self.tables[table] += len(rows)
            for row in rows:
                self.types.add((table, row[3]))

    def as_dict(self):
        return {"transactions": self.transactions, "events": self.events, "event_types": len(self.types),
                "reconnects": self.reconnects, "seconds": round(time.monotonic() - self.started, 3),
                "tables": {t: n for t, n in self.tables.items() if n},
                "types": sorted(f"{t}.{e}" for t, e in self.types)}


class Lost(Exception):
    """A connection to the core broke; what it had under way is in doubt."""


class Session:
    """One connection with a queue: transactions go out in order, a few per round trip when behind."""

    def __init__(self, conninfo, batch):
        self.conninfo, self.batch = conninfo, batch
        self.queue, self.flying = deque(), []
        self.conn, self.lost_pid = None, None
        self.trouble_since = None       # nothing of it was committed since then

    def connect(self):
        self.conn = psycopg.connect(self.conninfo, autocommit=True, application_name="lana_load")
        self.conn.pgconn.nonblocking = 1

    def send(self):
        """Sends what is queued unless a round trip is under way."""
        if self.flying or not self.queue:
            return
        while self.queue and len(self.flying) < self.batch:
            self.flying.append(self.queue.popleft())
        try:
            self.conn.pgconn.send_query("".join(sql for _, sql in self.flying).encode())
            self.flush()
        except psycopg.Error as error:
            raise Lost(str(error)) from None

    def flush(self):
        """Hands libpq's output to the socket; True while some is left."""
        try:
            return self.conn.pgconn.flush() == 1
        except psycopg.Error as error:
            raise Lost(str(error)) from None

    def receive(self):
        """The transactions that the server has committed since; [] while it is not done."""
        pgconn = self.conn.pgconn
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    done, self.flying = self.flying, []
                    return done
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    self.fail(result)
        except psycopg.Error as error:
            raise Lost(str(error)) from None
        return []

    def fail(self, result):
        message = result.error_message.decode(errors="replace")
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        # 53: no room, no memory, no connection left; it may come back.
        if state is None or state[:2] in (b"57", b"08", b"53") or self.conn.pgconn.status != pq.ConnStatus.OK:
            raise Lost(message)
        raise RuntimeError(f"the core refused a transaction: {message}")

    def resolve(self):
        """After a loss: reconnects, asks which of the flying transactions happened, requeues the others.

        The server is asked for the first event of each: (id, sequence) is unique, so it is there exactly
        when its transaction was committed. Returns those that were.
        """
        self.connect()
        done, again = [], []
        # What the lost session has under way must end first.
        self.conn.execute(f"""do $$ begin
            while exists (select from pg_stat_activity where pid = {self.lost_pid}
                    and application_name = 'lana_load' and backend_xid is not null) loop
                perform pg_sleep(0.01);
            end loop; end $$""")
        for tx, sql in self.flying:
            table, id_, sequence = tx.rows[0][:3]
            found = self.conn.execute(f"select from {table} where id = %s and sequence = %s",
                                      (id_, sequence)).rowcount
            (done if found else again).append((tx, sql))
        self.flying = []
        self.queue.extendleft(reversed(again))
        return done


class Steady:
    """Writes transactions one by one at a rate, over one or more connections."""

    def __init__(self, conninfo, rate=None, connections=1, reconnect=0.0, batch=16, on_commit=None):
        self.rate, self.reconnect = rate, reconnect
        self.sessions = [Session(conninfo, batch) for _ in range(connections)]
        self.summary = Summary()
        self.on_commit = on_commit

    def run(self, transactions, to_json, stop, limit=None):
        """Until `stop()`, `limit` events, or the end of `transactions`; all that was sent is settled."""
        for session in self.sessions:
            session.connect()
        start, sent, events = time.monotonic(), 0, 0
        opening, ended = True, False
        while True:
            ended = ended or stop() or (limit is not None and events >= limit)
            due = 0 if ended else self.due(start, sent)
            for _ in range(due):
                if limit is not None and events >= limit:
                    break
                tx = next(transactions, None)
                if tx is None:
                    ended = True
                    break
                if opening and tx.lane:     # all others refer to what lane 0 has opened
                    self.settle()
                    opening = False
                sent += 1
                events += sum(map(len, tx.by_entity.values()))
                self.sessions[tx.lane % len(self.sessions)].queue.append((tx, script(tx, to_json)))
            self.turn(self.pause(start, sent, ended))
            if ended and not any(s.queue or s.flying for s in self.sessions):
                break
        for session in self.sessions:
            session.conn.close()
        return self.summary

    def due(self, start, sent):
        """How many transactions to make now."""
        waiting = sum(len(s.queue) for s in self.sessions)
        room = 32 * len(self.sessions) - waiting
        if self.rate is None:
            return max(0, room)
        return max(0, min(room, int((time.monotonic() - start) * self.rate) + 1 - sent))

    def pause(self, start, sent, ended):
        """Seconds until the next transaction is due."""
        if self.rate is None or ended:
            return 0.05
        return max(0.0, start + sent / self.rate - time.monotonic())

    def settle(self):
        while any(s.queue or s.flying for s in self.sessions):
            self.turn(0.05)

    def turn(self, pause):
        """Sends, waits for an answer or `pause` seconds, and takes the answers."""
        writing = []
        for session in self.sessions:
            try:
                session.send()
                if session.flying and session.flush():
                    writing.append(session)
            except Lost as lost:
                self.recover(session, lost)
        busy = {s.conn.pgconn.socket: s for s in self.sessions if s.flying}
        if busy:
            ready, _, _ = select.select(list(busy), [s.conn.pgconn.socket for s in writing], [],
                                        max(pause, 0.0005))
        else:
            ready = []
            time.sleep(max(pause, 0.0005))
        for socket in ready:
            session = busy[socket]
            try:
                self.committed(session, session.receive())
            except Lost as lost:
                self.recover(session, lost)

    def committed(self, session, done):
        if done:
            session.trouble_since = None
        for tx, _ in done:
            self.summary.add(tx)
            if self.on_commit:
                self.on_commit(tx)

    def recover(self, session, lost):
        """Tries again for `reconnect` seconds; every transaction is then there once, and counted once."""
        if not self.reconnect:
            raise lost
        session.lost_pid = session.conn.pgconn.backend_pid
        session.conn.close()
        again = session.trouble_since is not None       # it lets us in, and takes nothing
        session.trouble_since = session.trouble_since or time.monotonic()
        if again and time.monotonic() > session.trouble_since + self.reconnect:
            raise lost
        while True:
            time.sleep(0.1 if again else 0)
            try:
                self.committed(session, session.resolve())
                self.summary.reconnects += 1
                return
            except psycopg.OperationalError:
                if time.monotonic() > session.trouble_since + self.reconnect:
                    raise
                again = True


def bulk(conninfo, transactions, to_json, stop, limit=None, group=4000):
    """As fast as it goes: `group` transactions at a time in one core transaction, by COPY."""
    summary = Summary()
    with psycopg.connect(conninfo, application_name="lana_load") as conn:
        while not stop() and (limit is None or summary.events < limit):
            batch, events = [], summary.events
            for tx in transactions:
                batch.append(tx)
                events += sum(map(len, tx.by_entity.values()))
                if len(batch) >= group or (limit is not None and events >= limit):
                    break
            if not batch:
                break
            copy_group(conn, batch, to_json)
            conn.commit()
            for tx in batch:
                summary.add(tx)
    return summary


def copy_group(conn, batch, to_json):
    """The rows of many transactions; an index row that is changed within the group is inserted as it ends."""
    index, events, updates = {}, {}, {}
    for tx in batch:
        for table, columns in tx.inserts:
            rows = index.setdefault(table, {})
            rows[columns.get("id", len(rows))] = dict(columns)
        for table, id_, columns in tx.updates:
            here = index.get(table, {}).get(id_)
            if here is not None and table != "core_disbursals":
                here.update(columns)
            else:
                updates.setdefault((table, id_), {}).update(columns)
        for rows in tx.by_entity.values():
            out = events.setdefault(rows[0][0], [])
            for _, id_, seq, type_, body, at in rows:
                out.append((id_, str(seq), type_, to_json(body), tx.context, at))
    with conn.cursor() as cur:
        for table in INDEX_ORDER:
            by_shape = {}
            for columns in index.get(table, {}).values():
                by_shape.setdefault(tuple(columns), []).append(
                    [None if v is None else "t" if v is True else "f" if v is False else str(v)
                     for v in columns.values()])
            for shape, rows in by_shape.items():
                copy_rows(cur, f"{table} ({listed(shape)})", rows)
        for table, rows in events.items():
            copy_rows(cur, f"{table} {EVENT_COLUMNS}", rows)
        if updates:
            cur.execute("".join(update(table, id_, columns) for (table, id_), columns in updates.items()).encode())


_escape = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_rows(cur, target, rows):
    lines = ["\t".join("\\N" if v is None else v.translate(_escape) for v in row) for row in rows]
    with cur.copy(f"copy {target} from stdin") as copy:
        for n in range(0, len(lines), 2000):
            copy.write(("\n".join(lines[n:n + 2000]) + "\n").encode())


def dump(path, transactions, stop, limit=None):
    """One event per line; the payload is spelled as the database's jsonb would print it."""
    summary = Summary()
    with open(path, "w", encoding="utf-8") as out:
        for tx in transactions:
            for table, id_, seq, type_, body, at in tx.rows:
                out.write(f'{{"table": "{table}", "id": "{id_}", "sequence": {seq}, "event_type": "{type_}", '
                          f'"event": {canonical(body)}, "recorded_at": "{at}"}}\n')
            summary.add(tx)
            if stop() or (limit is not None and summary.events >= limit):
                break
    return summary
