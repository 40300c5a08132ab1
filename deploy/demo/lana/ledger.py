"""The double-entry ledger under the bank: what each event posts, as rows of the cala tables.

It reads the events of a transaction that is about to be committed and adds its rows to it, so that
the lives know nothing of it. Its ids come from dice of its own: a world with a ledger has the same
events as one without. Amounts are kept in cents and satoshis and written as dollars and bitcoin.

Money the bank holds is one account (the omnibus account, node 1.1); every customer and facility
has accounts of its own, each a member of the set of a chart node and, marked transitive, of all
sets above. Pledged bitcoin is off the balance sheet: its sets belong to no node.
"""
import bisect
import json
import random

OMNIBUS_NODE = "1.1"
DEPOSITS_NODE = {"Individual": "2.1.01"}
COMPANIES_NODE = "2.1.02"
# account id's key in a facility's account_ids: (chart node, normal side)
FACILITY_NODES = {
    "disbursed_receivable_not_yet_due_account_id": ("1.2.01", "debit"),
    "disbursed_receivable_due_account_id": ("1.2.02", "debit"),
    "disbursed_receivable_overdue_account_id": ("1.2.02", "debit"),
    "disbursed_defaulted_account_id": ("1.2.02", "debit"),
    "interest_receivable_not_yet_due_account_id": ("1.2.03", "debit"),
    "interest_receivable_due_account_id": ("1.2.03", "debit"),
    "interest_receivable_overdue_account_id": ("1.2.03", "debit"),
    "interest_defaulted_account_id": ("1.2.03", "debit"),
    "interest_income_account_id": ("4.1", "credit"),
    "fee_income_account_id": ("4.2", "credit"),
    "payment_holding_account_id": ("2.1", "credit"),
    "facility_account_id": (None, "credit"),
    "proceeds_from_liquidation_account_id": (None, "debit"),
    "uncovered_outstanding_account_id": (None, "credit"),
}
DECIMALS = {"USD": 2, "BTC": 8}
NOTHING = {"dr_balance": "0", "cr_balance": "0"}


def amount(units, currency):
    """Cents as dollars, satoshis as bitcoin: "12.5", "0.00000001", "0"."""
    digits = DECIMALS[currency]
    whole, part = divmod(units, 10 ** digits)
    return f"{whole}.{part:0{digits}d}".rstrip("0").rstrip(".")


class Account:
    """An account's running sums, and by effective day what they came to."""
    __slots__ = ("currency", "id", "version", "debit", "credit", "days", "by_day")

    def __init__(self, id_, currency):
        self.id, self.currency = id_, currency
        self.version = self.debit = self.credit = 0
        self.days, self.by_day = [], {}     # day: [debit, credit, version]


class Ledger:
    """Books what a world commits. Give it every transaction, in the order of their commits."""

    def __init__(self, seed):
        self.rng = random.Random(f"ledger of {seed}")
        self.journal = self.omnibus = None
        self.sets = {}          # chart code: (set id, codes of the sets above)
        self.accounts = {}
        self.holders = {}       # deposit account entity: ledger account
        self.customers = {}     # customer: type
        self.money = {}         # deposit or withdrawal: (ledger account, cents)
        self.cycles = {}        # interest cycle: its accounts
        self.debts = {}         # obligation: (receivable accounts, defaulted account, where it stands)
        self.collaterals = {}   # collateral: (ledger account, satoshis)
        self.vault = None

    def uuid(self):
        h = "%032x" % self.rng.getrandbits(128)
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"

    def book(self, tx):
        for entity, events in list(tx.by_entity.items()):
            for _, id_, _, type_, body, _ in events:
                handler = getattr(self, f"{entity.kind}_{type_}", None)
                if handler:
                    handler(tx, id_, body)

    # rows -------------------------------------------------------------------------------------
    @staticmethod
    def row(tx, table, **columns):
        tx.inserts.append((table, columns))

    def account(self, tx, id_, name, side, currency="USD", node=None):
        self.row(tx, "cala_accounts", id=id_, code=f"account.{id_}", name=name, external_id=None,
                 normal_balance_type=side, eventually_consistent=False, velocity_context_values="{}",
                 status="active", created_at=tx.at)
        self.accounts[id_] = Account(id_, currency)
        if node:
            set_id, above = self.sets[node]
            self.member(tx, set_id, id_, False)
            for code in above:
                self.member(tx, self.sets[code][0], id_, True)
        return id_

    def account_set(self, tx, id_, name, side):
        """A set is an account, too."""
        self.row(tx, "cala_accounts", id=id_, code=f"set.{id_}", name=name, external_id=None,
                 normal_balance_type=side, eventually_consistent=True, velocity_context_values="{}",
                 status="active", created_at=tx.at)
        self.row(tx, "cala_account_sets", id=id_, journal_id=self.journal, name=name, external_id=None,
                 created_at=tx.at)

    def member(self, tx, set_id, account_id, transitive):
        self.row(tx, "cala_account_set_member_accounts", account_set_id=set_id, member_account_id=account_id,
                 transitive=transitive, created_at=tx.at)

    def post(self, tx, debit, credit, units, day=None):
        """One transaction of two entries: `units` from the credit account to the debit account."""
        if units <= 0:
            return
        day = day or tx.at[:10]
        for id_, debits, credits in ((debit, units, 0), (credit, 0, units)):
            a, entry = self.accounts[id_], self.uuid()
            a.version += 1
            a.debit, a.credit = a.debit + debits, a.credit + credits
            self.row(tx, "cala_balance_history", journal_id=self.journal, account_id=id_, latest_entry_id=entry,
                     currency=a.currency, version=a.version,
                     values=self.values(tx, a, entry, a.debit, a.credit, a.version), recorded_at=tx.at)
            self.post_day(tx, a, entry, day, debits, credits)

    def post_day(self, tx, a, entry, day, debits, credits):
        """The cumulative balance of the day, and a new version of every later day's."""
        at = bisect.bisect_left(a.days, day)
        if at == len(a.days) or a.days[at] != day:
            before = a.by_day[a.days[at - 1]] if at else (0, 0, 0)
            a.days.insert(at, day)
            a.by_day[day] = [before[0], before[1], 0]
        for later in a.days[at:]:
            sums = a.by_day[later]
            sums[0], sums[1], sums[2] = sums[0] + debits, sums[1] + credits, sums[2] + 1
            self.row(tx, "cala_cumulative_effective_balances", journal_id=self.journal, account_id=a.id,
                     currency=a.currency, effective=later, version=sums[2], all_time_version=a.version,
                     latest_entry_id=entry, values=self.values(tx, a, entry, sums[0], sums[1], sums[2]),
                     updated_at=tx.at, created_at=tx.at)

    def values(self, tx, a, entry, debit, credit, version):
        settled = {"dr_balance": amount(debit, a.currency), "cr_balance": amount(credit, a.currency)}
        layer = {"entry_id": entry, "modified_at": tx.at}
        return json.dumps({
            "journal_id": self.journal, "account_id": a.id, "currency": a.currency, "version": version,
            "entry_id": entry, "settled": {**settled, **layer}, "pending": {**NOTHING, **layer},
            "encumbrance": {**NOTHING, **layer}, "created_at": tx.at, "modified_at": tx.at})

    # chart ------------------------------------------------------------------------------------
    def chart_initialized(self, tx, _id, body):
        self.journal = self.uuid()
        self.row(tx, "cala_journals", id=self.journal, name="General ledger", code="CORE", created_at=tx.at)
        self.account_set(tx, body["account_set_id"], body["name"], "credit")
        self.sets[""] = (body["account_set_id"], [])
        pledged = self.uuid()
        self.account_set(tx, pledged, "Bitcoin in custody", "debit")
        self.sets["custody"] = (pledged, [])
        self.vault = self.account(tx, self.uuid(), "Bitcoin in custody", "debit", "BTC", "custody")

    def chart_node_initialized(self, tx, _id, body):
        spec = body["spec"]
        code = ".".join(s["code"] for s in spec["code"]["sections"])
        above = code.rpartition(".")[0]
        self.account_set(tx, body["ledger_account_set_id"], spec["name"]["name"], spec["normal_balance_type"])
        self.sets[code] = (body["ledger_account_set_id"], [above, *self.sets[above][1]])
        self.row(tx, "cala_account_set_member_account_sets", account_set_id=self.sets[above][0],
                 member_account_set_id=body["ledger_account_set_id"], created_at=tx.at)
        if code == OMNIBUS_NODE:
            self.omnibus = self.account(tx, self.uuid(), "Bank omnibus", "debit", node=code)

    # know your customer -----------------------------------------------------------------------
    def prospect_initialized(self, tx, id_, body):
        self.customers[id_] = body["customer_type"]

    def kyc(self, tx, id_, type_):
        """The provider calls; the answer is taken at once."""
        self.row(tx, "inbox_events", id=self.uuid(), idempotency_key=f"{id_}:{type_}",
                 payload=json.dumps({"type": type_, "externalUserId": id_, "createdAtMs": tx.at}),
                 status="completed", error=None, recorded_at=tx.at, processed_at=tx.at)

    def prospect_kyc_started(self, tx, id_, _body):
        self.kyc(tx, id_, "applicantCreated")

    def prospect_kyc_pending(self, tx, id_, _body):
        self.kyc(tx, id_, "applicantPending")

    def prospect_kyc_approved(self, tx, id_, _body):
        self.kyc(tx, id_, "applicantReviewed")

    # deposits ---------------------------------------------------------------------------------
    def deposit_account_initialized(self, tx, id_, body):
        holder = body["account_holder_id"]
        node = DEPOSITS_NODE.get(self.customers[holder], COMPANIES_NODE)
        for key, name in (("deposit_account_id", "Deposits"), ("frozen_deposit_account_id", "Frozen deposits")):
            self.account(tx, body["account_ids"][key], f"{name} of {holder}", "credit", node=node)
        self.holders[id_] = body["account_ids"]["deposit_account_id"]

    def deposit_initialized(self, tx, id_, body):
        account = self.holders[body["deposit_account_id"]]
        self.money[id_] = account, body["amount"]
        self.post(tx, self.omnibus, account, body["amount"])

    def deposit_reverted(self, tx, id_, _body):
        account, cents = self.money.pop(id_)
        self.post(tx, account, self.omnibus, cents)

    def withdrawal_initialized(self, _tx, id_, body):
        self.money[id_] = self.holders[body["deposit_account_id"]], body["amount"]

    def withdrawal_confirmed(self, tx, id_, _body):
        account, cents = self.money[id_]
        self.post(tx, account, self.omnibus, cents)

    def withdrawal_reverted(self, tx, id_, _body):
        account, cents = self.money.pop(id_)
        self.post(tx, self.omnibus, account, cents)

    # collateral -------------------------------------------------------------------------------
    def collateral_initialized(self, tx, id_, body):
        for key, account in body["account_ids"].items():
            self.account(tx, account, key.removesuffix("_account_id"), "credit", "BTC")
        self.collaterals[id_] = [body["account_ids"]["collateral_account_id"], 0]

    def collateral_moved(self, tx, id_, body):
        held = self.collaterals[id_]
        change = body["collateral_amount"] - held[1]
        held[1] = body["collateral_amount"]
        self.post(tx, self.vault, held[0], change)
        self.post(tx, held[0], self.vault, -change)

    collateral_updated_via_manual_input = collateral_moved
    collateral_updated_via_custodian_sync = collateral_moved
    collateral_updated_via_liquidation = collateral_moved

    # credit -----------------------------------------------------------------------------------
    def credit_facility_initialized(self, tx, id_, body):
        for key, account in body["account_ids"].items():
            node, side = FACILITY_NODES[key]
            self.account(tx, account, f"{key.removesuffix('_account_id')} of {id_}", side, node=node)

    def disbursal_initialized(self, _tx, id_, body):
        self.money[id_] = body["account_ids"]["receivable_not_yet_due_account_id"], body["disbursal_credit_account_id"]

    def disbursal_settled(self, tx, id_, body):
        receivable, account = self.money.pop(id_)
        self.post(tx, receivable, account, body["amount"], body["effective"])

    def interest_accrual_cycle_initialized(self, _tx, id_, body):
        self.cycles[id_] = body["account_ids"]

    def interest_accrual_cycle_interest_accrued(self, tx, id_, body):
        ids = self.cycles[id_]
        self.post(tx, ids["receivable_not_yet_due_account_id"], ids["interest_income_account_id"], body["amount"],
                  body["accrued_at"][:10])

    def obligation_initialized(self, _tx, id_, body):
        stages = body["receivable_account_ids"]
        self.debts[id_] = [stages["not_yet_due"], stages["due"], stages["overdue"], body["defaulted_account_id"]]

    def moves_on(self, tx, id_, cents):
        stages = self.debts[id_]
        here = stages.pop(0)
        self.post(tx, stages[0], here, cents)

    def obligation_due_recorded(self, tx, id_, body):
        self.moves_on(tx, id_, body["due_amount"])

    def obligation_overdue_recorded(self, tx, id_, body):
        self.moves_on(tx, id_, body["overdue_amount"])

    def obligation_defaulted_recorded(self, tx, id_, body):
        self.moves_on(tx, id_, body["defaulted_amount"])

    def payment_initialized(self, tx, _id, body):
        self.post(tx, body["payment_source_account_id"], body["facility_payment_holding_account_id"], body["amount"],
                  body["effective"])

    def payment_allocation_initialized(self, tx, _id, body):
        receivable = self.debts[body["obligation_id"]][0]
        self.post(tx, body["payment_holding_account_id"], receivable, body["amount"], body["effective"])
