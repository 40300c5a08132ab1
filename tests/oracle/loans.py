#!/usr/bin/python3
"""The figures of loans and deposit accounts, computed a second time from the core's events alone.

It shares no file with the models: the rules stand here again, in plain arithmetic of whole cents and fractions.

  loans.py --core CONNINFO --day 2024-12-15 [--loans 20] [--accounts 10]     prints them as JSON lines

figures(conn, day) gives {number of the loan: Loan} and {number of the account: cents}.
"""
import argparse
import datetime
import json
import sys
from collections import defaultdict, namedtuple
from fractions import Fraction

import psycopg

Loan = namedtuple("Loan", "disbursal facility disbursed incurred interest_paid principal_paid balance days_principal "
                          "days_interest category collateral risk reserve reported")
# Last day of the category, its letter, percent of the net risk.
CATEGORIES = [(7, "A1", 0), (30, "A2", 1), (60, "B", 5), (90, "C1", 15), (120, "C2", 25), (150, "D1", 50),
              (180, "D2", 75), (None, "E", 100)]
SATS_PER_BITCOIN = 100_000_000


def half_up(value):
    """A fraction as a whole number, half away from zero."""
    whole = (abs(value) + Fraction(1, 2)).__floor__()
    return whole if value >= 0 else -whole


def day(text):
    return datetime.date.fromisoformat(text[:10])


def lives(conn, entity):
    """{id: [(sequence, type, payload, recorded_at) …]} of an entity's events."""
    found = defaultdict(list)
    for id_, sequence, type_, body, at in conn.execute(
            f"select id::text, sequence, event_type, event, recorded_at from core_{entity}_events "
            "order by id, sequence"):
        found[id_].append((sequence, type_, body, at))
    return found


def first(life, type_):
    return next((body for _, t, body, _ in life if t == type_), None)


def has(life, type_):
    return any(t == type_ for _, t, _, _ in life)


class Bank:
    """All that the figures need, read once."""

    def __init__(self, conn, on):
        self.on = on
        self.facilities = lives(conn, "credit_facility")
        self.proposals = lives(conn, "credit_facility_proposal")
        self.disbursals = lives(conn, "disbursal")
        self.cycles = lives(conn, "interest_accrual_cycle")
        self.obligations = lives(conn, "obligation")
        self.allocations = lives(conn, "payment_allocation")
        self.deposit_accounts = lives(conn, "deposit_account")
        self.deposits = lives(conn, "deposit")
        self.withdrawals = lives(conn, "withdrawal")

    # loans --------------------------------------------------------------------------------------
    def loans(self):
        """{facility: [(day of settlement, id, number, cents, obligation) …]}, in order, of settled disbursals."""
        found = defaultdict(list)
        for id_, life in self.disbursals.items():
            settled, start = first(life, "settled"), first(life, "initialized")
            if settled:
                found[start["facility_id"]].append(
                    (day(settled["effective"]), id_, start["public_id"], settled["amount"], settled["obligation_id"]))
        return {facility: sorted(loans) for facility, loans in found.items()}

    def shares(self, loans):
        """{obligation: {loan: (from, to)}}: the parts of 1 that a cycle's loans have in its interest."""
        found = {}
        for life in self.cycles.values():
            posted, start = first(life, "interest_accruals_posted"), first(life, "initialized")
            if not posted or not posted.get("obligation_id"):
                continue
            begins, ends = day(start["period"]["start"]), day(start["period"]["end"])
            mine = loans.get(start["facility_id"], [])
            weights = [cents * max(0, (ends - max(begins, since)).days + 1) for since, _, _, cents, _ in mine]
            if not sum(weights):
                weights = [cents for _, _, _, cents, _ in mine]
            total, until, parts = sum(weights), 0, {}
            for (_, id_, _, _, _), weight in zip(mine, weights):
                parts[id_] = Fraction(until, total), Fraction(until + weight, total)
                until += weight
            found[posted["obligation_id"]] = parts
        return found

    def paid(self, loans, shares):
        """({loan: interest cents}, {loan: principal cents})."""
        of_obligation = {o: id_ for mine in loans.values() for _, id_, _, _, o in mine}
        interest, principal, sums = defaultdict(int), defaultdict(int), defaultdict(int)
        for life in self.allocations.values():
            body = first(life, "initialized")
            if body["obligation_type"] == "Disbursal":
                principal[of_obligation[body["obligation_id"]]] += body["amount"]
            else:
                sums[body["obligation_id"]] += body["amount"]
        for obligation, cents in sums.items():
            for loan, (low, high) in shares[obligation].items():
                interest[loan] += half_up(cents * high) - half_up(cents * low)
        return interest, principal

    def overdue(self):
        """{facility: {type: days}}: the most days that an obligation of the type is overdue."""
        found = defaultdict(lambda: defaultdict(int))
        for life in self.obligations.values():
            body = first(life, "initialized")
            if not body.get("overdue_date") or has(life, "completed") or has(life, "defaulted_recorded"):
                continue
            days = max(0, (self.on - day(body["overdue_date"])).days)
            kinds = found[body["beneficiary_id"]]
            kinds[body["obligation_type"]] = max(kinds[body["obligation_type"]], days)
        return found

    def collateral(self, facility):
        """US cents that the pledged bitcoin were worth when the facility last said."""
        sats = price = 0
        for _, type_, body, _ in self.facilities[facility]:
            if type_ in ("initialized", "collateralization_state_changed"):
                sats, price = body["collateral"], body["price"]
        return half_up(Fraction(sats * price, SATS_PER_BITCOIN))

    def approved(self, facility):
        last = [body["status"] for _, _, body, _ in self.proposals[facility] if "status" in body][-1]
        return last == "Approved"

    def figures(self):
        loans = self.loans()
        shares = self.shares(loans)
        interest_paid, principal_paid = self.paid(loans, shares)
        incurred = defaultdict(int)
        for obligation, parts in shares.items():
            cents = first(self.obligations[obligation], "initialized")["amount"]
            for loan, (low, high) in parts.items():
                incurred[loan] += half_up(cents * high) - half_up(cents * low)
        overdue, found = self.overdue(), {}
        for facility, mine in loans.items():
            if not self.approved(facility):
                continue
            head = first(self.facilities[facility], "initialized")
            worth, total, until = self.collateral(facility), sum(c for _, _, _, c, _ in mine), 0
            for _, id_, number, cents, _ in mine:
                cover = half_up(Fraction(worth * (until + cents), total)) - half_up(Fraction(worth * until, total))
                until += cents
                balance = cents + incurred[id_] - interest_paid[id_] - principal_paid[id_]
                days = overdue[facility]["Disbursal"], overdue[facility]["Interest"]
                letter, percent = next((c, p) for last, c, p in CATEGORIES if last is None or max(days) <= last)
                found[number] = Loan(
                    id_, facility, cents, incurred[id_], interest_paid[id_], principal_paid[id_], balance, *days,
                    letter, cover, balance - cover, half_up(Fraction(max(0, balance - cover) * percent, 100)),
                    day(head["maturity_date"]) >= self.on)
        return found

    # deposits -----------------------------------------------------------------------------------
    def balances(self):
        """{number of the account: cents} of accounts with any deposit or approved withdrawal."""
        found = defaultdict(int)
        numbers = {id_: first(life, "initialized")["public_id"] for id_, life in self.deposit_accounts.items()}
        for life in self.deposits.values():
            body = first(life, "initialized")
            found[numbers[body["deposit_account_id"]]] += 0 if has(life, "reverted") else body["amount"]
        for life in self.withdrawals.values():
            body, concluded = first(life, "initialized"), first(life, "approval_process_concluded")
            if concluded and concluded["approved"]:
                back = has(life, "cancelled") or has(life, "reverted")
                found[numbers[body["deposit_account_id"]]] -= 0 if back else body["amount"]
        return dict(found)


def figures(conn, on):
    """(loans by number, balances by number) on a day."""
    bank = Bank(conn, on)
    return bank.figures(), bank.balances()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--core", required=True, metavar="CONNINFO")
    p.add_argument("--day", required=True, type=datetime.date.fromisoformat)
    p.add_argument("--loans", type=int, default=20)
    p.add_argument("--accounts", type=int, default=10)
    a = p.parse_args()
    try:
        with psycopg.connect(a.core, options="-c timezone=UTC") as conn:
            loans, balances = figures(conn, a.day)
    except psycopg.Error as error:
        print(f"loans: {error}".rstrip(), file=sys.stderr)
        return 2
    for number in sorted(loans, key=int)[:a.loans]:
        print(json.dumps({"loan": number, **loans[number]._asdict()}))
    for number in sorted(balances, key=int)[:a.accounts]:
        print(json.dumps({"account": number, "balance": balances[number]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
