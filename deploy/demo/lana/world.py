"""The simulated bank's clock, dice and transactions.

A life is a Python generator: it yields the seconds that it sleeps and commits transactions in
between. `World.run` wakes the lives in the order of the simulated clock, so that lives interleave.
Everything comes from one seeded `random.Random`: one seed, one stream, ids included.
"""
import heapq
import math
import random
from datetime import datetime, timedelta

from .ledger import Ledger

EPOCH = datetime(1970, 1, 1)
SECOND = 1_000_000
DAY = 86_400 * SECOND

# kind: (event table, index table)
TABLES = {
    "user": ("core_user_events", "core_users"),
    "role": ("core_role_events", "core_roles"),
    "permission_set": ("core_permission_set_events", "core_permission_sets"),
    "approval_process": ("core_approval_process_events", "core_approval_processes"),
    "committee": ("core_committee_events", "core_committees"),
    "policy": ("core_policy_events", "core_policies"),
    "customer": ("core_customer_events", "core_customers"),
    "prospect": ("core_prospect_events", "core_prospects"),
    "party": ("core_party_events", "core_parties"),
    "deposit_account": ("core_deposit_account_events", "core_deposit_accounts"),
    "deposit": ("core_deposit_events", "core_deposits"),
    "withdrawal": ("core_withdrawal_events", "core_withdrawals"),
    "custodian": ("core_custodian_events", "core_custodians"),
    "collateral": ("core_collateral_events", "core_collaterals"),
    "credit_facility": ("core_credit_facility_events", "core_credit_facilities"),
    "credit_facility_proposal": ("core_credit_facility_proposal_events", "core_credit_facility_proposals"),
    "pending_credit_facility": ("core_pending_credit_facility_events", "core_pending_credit_facilities"),
    "disbursal": ("core_disbursal_events", "core_disbursals"),
    "interest_accrual_cycle": ("core_interest_accrual_cycle_events", "core_interest_accrual_cycles"),
    "obligation": ("core_obligation_events", "core_obligations"),
    "payment": ("core_payment_events", "core_payments"),
    "payment_allocation": ("core_payment_allocation_events", "core_payment_allocations"),
    "terms_template": ("core_terms_template_events", "core_terms_templates"),
    "chart": ("core_chart_events", "core_charts"),
    "chart_node": ("core_chart_node_events", "core_chart_nodes"),
    "liquidation": ("core_liquidation_events", "core_liquidations"),
    "document": ("core_document_events", "core_documents"),
    "manual_transaction": ("core_manual_transaction_events", "core_manual_transactions"),
    "domain_config": ("core_domain_config_events", "core_domain_configs"),
    "wallet": ("core_wallet_events", "core_wallets"),
    "fiscal_year": ("core_fiscal_year_events", "core_fiscal_years"),
    "report": ("core_report_events", "core_reports"),
    "report_run": ("core_report_run_events", "core_report_runs"),
}
EVENT_TABLES = [events for events, _ in TABLES.values()]


def stamp(us):
    """Microseconds since 1970 as a timestamptz literal in UTC."""
    return (EPOCH + timedelta(microseconds=us)).isoformat(" ") + "+00"


def day_of(us):
    """The UTC date, YYYY-MM-DD."""
    return (EPOCH + timedelta(microseconds=us)).date().isoformat()


def btc_price(us, shift=0):
    """Cents per bitcoin: two slow swings and a fast one, so that margin calls and liquidations come.
    shift: days by which the swings come later."""
    day = us / DAY - shift
    swing = math.sin(day / 29) * 0.22 + math.sin(day / 7.3) * 0.05 + math.sin(day * 1.7) * 0.012
    return int(6_500_000 * (1 + swing))


def midnight(us):
    """The start of the UTC day that holds us."""
    return us - us % DAY


def month_start(us, months):
    """The first of the month, `months` after the month that holds us."""
    date = EPOCH + timedelta(microseconds=us)
    index = date.year * 12 + date.month - 1 + months
    first = datetime(index // 12, index % 12 + 1, 1)
    return (first - EPOCH) // timedelta(microseconds=1)


class Entity:
    """One event-sourced thing: its kind, its id, the sequence of its last event."""
    __slots__ = ("kind", "id", "seq", "table", "index_table")

    def __init__(self, kind, id_):
        self.kind, self.id, self.seq = kind, id_, 0
        self.table, self.index_table = TABLES[kind]


class Tx:
    """One core transaction: index rows first, then events by entity, then updates of index rows.

    `lane`: transactions of one lane depend on each other and must be committed in order; those of
    different lanes may overlap. Lane 0 (what all others refer to) opens the stream.
    """
    __slots__ = ("world", "us", "at", "lane", "inserts", "by_entity", "updates", "context")

    def __init__(self, world, lane):
        self.world, self.lane = world, lane
        self.us = world.now
        self.at = stamp(world.now)
        self.inserts, self.by_entity, self.updates = [], {}, []
        self.context = world.context()

    @property
    def rows(self):
        """The events: (table, id, sequence, event_type, payload, recorded_at)."""
        return [row for rows in self.by_entity.values() for row in rows]

    @property
    def statements(self):
        """The plain changes: ("insert", table, None, columns), ("update", table, id, columns)."""
        return [("insert", t, None, c) for t, c in self.inserts] + \
            [("update", t, i, c) for t, i, c in self.updates]

    def public_id(self, target):
        """The next public number, for `target`."""
        number = self.world.next_public_id()
        self.inserts.append(("core_public_ids",
                             {"id": number, "target_id": target, "created_at": self.at}))
        return number

    def move_public_id(self, number, target):
        self.updates.append(("core_public_ids", number, {"target_id": target}))

    def create(self, kind, columns, payload, id_=None):
        """A new entity with its index row and its first event; returns it."""
        entity = Entity(kind, id_ or self.world.uuid())
        self.inserts.append((entity.index_table,
                             {"id": entity.id, **columns, "created_at": self.at}))
        self.event(entity, "initialized", {"id": entity.id, **payload})
        return entity

    def event(self, entity, type_, payload=None, **index):
        """The entity's next event; `index` are columns of its index row that change with it."""
        entity.seq += 1
        body = {"type": type_}
        if payload:
            body.update(payload)
        if self.world.mutate:
            self.world.mutate(entity.kind, type_, body)
        self.by_entity.setdefault(entity, []).append(
            (entity.table, entity.id, entity.seq, type_, body, self.at))
        if index:
            self.updates.append((entity.index_table, entity.id, index))


class World:
    """Clock, dice, counters, and the lives that sleep."""

    def __init__(self, seed=1, start="2024-01-01", scale=1.0, legacy=True, mutate=None, with_ledger=False, hard=False,
                 price_shift=0):
        self.rng = random.Random(seed)
        self.ledger = Ledger(seed) if with_ledger else None
        self.now = (datetime.fromisoformat(start) - EPOCH) // timedelta(microseconds=1)
        self.scale = scale      # customers and reports a day, as a multiple of the usual
        self.legacy = legacy    # also event types that today's core no longer writes
        self.mutate = mutate
        self.hard = hard        # loans run for long, and many are not paid
        self.price_shift = price_shift      # days by which the price's swings come later
        self.closing = False    # no new lives; those under way go on to their end
        self.users = []
        self._public, self._audit, self._lane, self._wake_no = 1000, 0, 0, 0
        self._heap, self._out, self._counts = [], [], {}

    # dice -------------------------------------------------------------------------------------
    def uuid(self):
        h = "%032x" % self.rng.getrandbits(128)
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"

    def chance(self, p):
        return self.rng.random() < p

    def turn(self, name, n):
        """0, 1 … n-1, 0, 1 …: so that every branch is taken, and soon."""
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return count % n

    def price(self):
        """Of a bitcoin, in cents."""
        return btc_price(self.now, self.price_shift)

    def hours(self, low, high):
        return self.rng.uniform(low, high) * 3600

    def timestamp(self, us=None):
        """RFC 3339 in UTC with zero to nine fraction digits."""
        us = self.now if us is None else us
        base = (EPOCH + timedelta(seconds=us // SECOND)).isoformat()
        digits = self.rng.randrange(10)
        if not digits:
            return base + "Z"
        return f"{base}.{us % SECOND * 1000 + self.rng.randrange(1000):09d}"[:20 + digits] + "Z"

    def optional(self, payload, key, value):
        """An optional key: mostly there; where empty mostly null, in older rows absent."""
        if value is not None or self.rng.random() < 0.8:
            payload[key] = value

    def next_public_id(self):
        self._public += 1
        return str(self._public - 1)

    def new_lane(self):
        self._lane += 1
        return self._lane

    def context(self):
        self._audit += 1
        if self._audit % 7 == 0:
            return None
        who = self.users[self._audit % len(self.users)] if self.users else "system"
        return '{"audit_info": {"sub": "%s", "audit_entry_id": "%d"}}' % (who, self._audit)

    # lives ------------------------------------------------------------------------------------
    def start(self, life, after=0.0):
        """Let `life` begin in `after` seconds."""
        self._wake_no += 1
        heapq.heappush(self._heap, (self.now + int(after * SECOND), self._wake_no, life))

    def tx(self, lane):
        return Tx(self, lane)

    def commit(self, tx):
        if self.ledger:
            self.ledger.book(tx)
        self._out.append(tx)
        self.now += self.rng.randrange(1_000, 40_000)

    def until(self, us):
        """Seconds from now until us, and a moment more."""
        return max(0, us - self.now) / SECOND + self.rng.random() * 300

    def run(self):
        """All transactions in order, for ever, or after `closing` until the last life has ended."""
        while self._heap:
            wake, _, life = heapq.heappop(self._heap)
            self.now = wake
            pause = next(life, None)
            if self._out:
                out, self._out = self._out, []
                yield from out
            if pause is not None:
                self.start(life, pause)
