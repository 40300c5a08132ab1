"""Credit: proposal, collateral, the running facility with its daily interest, debts and payments."""
import math

from . import people, shapes
from .world import DAY, day_of, midnight, month_start

SATS = 100_000_000
# How borrowers pay, taken in turn: on time, late (overdue), in parts, or only after default.
PAYERS = ["good", "good", "late", "good", "parts", "good", "default", "good"]
MONTHS = [1, 2, 3, 3, 3, 3, 4, 6]
# In hard times loans run for long, and borrowers stop paying for good, after the first interest or without any.
HARD_PAYERS = ["stops", "good", "stops", "parts", "stops", "default", "stops", "late"]
HARD_MONTHS = [9, 12, 18, 24]


def decimal(value):
    """A decimal string of four digits; value is a ratio times 10,000."""
    return "%d.%04d" % divmod(value, 10_000)


class Facility:
    """One loan, from the proposal on."""

    def __init__(self, w, bank, c):
        self.w, self.bank, self.c = w, bank, c
        payers = HARD_PAYERS if w.hard else PAYERS
        self.months = w.rng.choice(HARD_MONTHS if w.hard else MONTHS)
        self.multiple = w.turn("multiple disbursals", 4) == 3
        self.rate = w.rng.choice([10, 12, 12, 12.5])
        self.payer = payers[w.turn("payers", len(payers))]
        self.legacy = w.legacy and w.turn("legacy", 12) == 2
        self.amount = w.rng.randrange(50, 2_000) * 500_000
        self.terms = shapes.terms(w, self.months, self.multiple, self.rate, self.payer == "default")
        self.id = w.uuid()      # proposal, pending facility, facility and approval process share it
        self.accounts = shapes.uuids(w, shapes.FACILITY_ACCOUNTS)
        self.credit_account = c.ledger_account
        self.sats = self.ratio = self.ratio_told = 0
        self.pending = self.entity = self.collateral = self.cycle = self.wallet = None
        self.state = "NotYetCollateralized"
        self.debts = []         # open obligations
        self.disbursed = self.cycle_no = self.accrued = self.accruals = 0
        self.matured = self.liquidating = False
        self.payments = self.next_part = self.maturity = 0

    # small helpers ----------------------------------------------------------------------------
    def tx(self):
        return self.c.tx()

    def outstanding(self):
        principal = sum(d.left for d in self.debts if d.type == "Disbursal")
        return {"disbursed": principal, "interest": sum(d.left for d in self.debts) - principal}

    def owed(self):
        return sum(d.left for d in self.debts)

    def valuate(self):
        """The present collateral to debt ratio, times 10,000; 0 for no exposure."""
        debt = self.owed() if self.entity else self.amount
        self.ratio = self.sats * self.w.price() // SATS * 10_000 // debt if debt else 0
        return self.ratio

    def head(self):
        return {"customer_id": self.c.id, "customer_type": self.c.type, "amount": self.amount,
                "disbursal_credit_account_id": self.credit_account, "terms": self.terms}

    # life -------------------------------------------------------------------------------------
    def life(self):
        w = self.w
        if self.c.closed:
            return
        self.c.open_lives += 1
        if (yield from self.propose()):
            yield from self.secure()
            yield w.hours(0.01, 0.2)
            self.activate()
            yield from self.run()
        self.c.open_lives -= 1

    def propose(self):
        """True when customer and committee have agreed."""
        w = self.w
        tx = self.tx()
        self.custodian = w.rng.choice(self.bank.custodians)
        self.proposal = tx.create("credit_facility_proposal", {
            "customer_id": self.c.id, "status": "PendingCustomerApproval", "amount": self.amount}, {
            **self.head(), "status": "PendingCustomerApproval", "custodian_id": self.custodian[0].id}, self.id)
        w.commit(tx)
        yield w.hours(1, 48)
        refused = w.turn("customer refuses", 10) == 6
        status = "CustomerDenied" if refused else "PendingApproval"
        tx = self.tx()
        tx.event(self.proposal, "customer_approval_concluded", {"status": status}, status=status)
        if refused:
            w.commit(tx)
            return False
        tx.event(self.proposal, "approval_process_started",
                 {"status": status, "approval_process_id": self.id}, approval_process_id=self.id)
        process, approved = people.approval(self.c, tx, "credit-facility-proposal", self.id,
                                            f"credit-facility-proposal:{self.id}")
        w.commit(tx)
        if approved is None:
            approved = yield from people.decide(self.c, process)
        yield w.hours(0.001, 0.02)
        status = "Approved" if approved else "Denied"
        if approved and self.custodian[0] is not self.bank.custodians[0][0]:
            w.start(self.bank.next_receive_index(self.custodian))
        tx = self.tx()
        tx.event(self.proposal, "approval_process_concluded",
                 {"status": status, "approval_process_id": self.id}, status=status)
        if approved:
            self.born(tx)
        w.commit(tx)
        return approved

    def born(self, tx):
        """Pending facility, collateral and wallet, in the transaction that concludes the approval."""
        w = self.w
        if self.custodian[0] is not self.bank.custodians[0][0]:
            external = f"wallet-{w.uuid()}"
            self.wallet = tx.create("wallet", {"external_wallet_id": external}, {
                "custodian_id": self.custodian[0].id, "external_wallet_id": external, "network": "Testnet4",
                "address": "tb1q" + "%040x" % w.rng.getrandbits(160),
                "custodian_response": {"id": external, "label": f"facility {self.id}", "confirmed": True,
                                       "balance": 0, "tags": [], "limits": {"daily": None}}})
        collateral_id, wallet_id = w.uuid(), self.wallet.id if self.wallet else None
        payload = {
            "account_ids": shapes.uuids(w, ["collateral_account_id", "collateral_in_liquidation_account_id",
                                            "liquidated_collateral_account_id"]),
            "secured_loan_id": self.id,
            "facility_ledger_account_ids_for_liquidation": {
                k: self.accounts[k] for k in ("payment_holding_account_id", "proceeds_from_liquidation_account_id",
                                              "uncovered_outstanding_account_id")}}
        w.optional(payload, "custody_wallet_id", wallet_id)
        self.collateral_accounts = payload["account_ids"]
        self.collateral = tx.create("collateral", {"custody_wallet_id": wallet_id}, payload, collateral_id)
        self.pending = tx.create("pending_credit_facility", {
            "credit_facility_proposal_id": self.id, "customer_id": self.c.id, "approval_process_id": self.id,
            "collateral_id": collateral_id, "collateralization_state": "NotYetCollateralized",
            "amount": self.amount}, {
            **self.head(), "approval_process_id": self.id, "credit_facility_proposal_id": self.id,
            "collateral_id": collateral_id, "ledger_tx_id": w.uuid(),
            "account_ids": {
                "facility_account_id": self.accounts["facility_account_id"],
                "facility_payment_holding_account_id": self.accounts["payment_holding_account_id"],
                "facility_uncovered_outstanding_account_id": self.accounts["uncovered_outstanding_account_id"],
                "facility_proceeds_from_liquidation_account_id":
                    self.accounts["proceeds_from_liquidation_account_id"]}}, self.id)

    def add_collateral(self, sats):
        """The pledged total becomes `sats`: by hand, or by the wallet's balance and a sync after it."""
        w = self.w
        diff, self.sats = sats - self.sats, sats
        payload = {"abs_diff": abs(diff), "direction": "Add" if diff > 0 else "Remove",
                   "collateral_amount": sats, "ledger_tx_id": w.uuid()}
        if self.wallet:
            tx = self.tx()
            tx.event(self.wallet, "balance_changed", {"new_balance": sats, "changed_at": w.timestamp()})
            w.commit(tx)
        tx = self.tx()
        if self.legacy and not self.entity:
            tx.event(self.collateral, "updated", {"ledger_tx_id": payload["ledger_tx_id"]})
        else:
            tx.event(self.collateral, "updated_via_custodian_sync" if self.wallet else "updated_via_manual_input",
                     payload)
        w.commit(tx)

    def secure(self):
        """Collateral comes in one to three parts until the pending facility is fully collateralized."""
        w = self.w
        target = self.amount * w.rng.randrange(145, 190) // 100 * SATS // w.price()
        parts = 1 + w.turn("parts of collateral", 3)
        for n in range(1, parts + 1):
            yield w.hours(0.5, 30)
            self.add_collateral(max(target * n // parts, self.needed() if n == parts else 0))
            yield w.hours(0.001, 0.02)
            ratio = self.valuate()
            full = ratio >= 14_000
            state = "FullyCollateralized" if full else "UnderCollateralized"
            tx = self.tx()
            tx.event(self.pending, "collateralization_ratio_changed",
                     {"collateralization_ratio": {"Finite": decimal(ratio)}}, collateralization_ratio=decimal(ratio))
            if state != self.state:
                tx.event(self.pending, "collateralization_state_changed", {
                    "collateralization_state": state, "collateral": self.sats, "price": w.price()},
                    collateralization_state=state)
                self.state = state
            w.commit(tx)
            if full:
                return

    def needed(self):
        """Enough for the initial ratio at a price a little below today's."""
        return self.amount * 150 // 100 * SATS // self.w.price()

    def activate(self):
        """One transaction: pending completed, facility, first cycle, and mostly the whole disbursal."""
        w = self.w
        tx = self.tx()
        tx.event(self.pending, "completed", status="Completed")
        number = tx.public_id(self.id)
        now = w.now
        self.maturity = month_start(now, self.months) + (min((now - month_start(now, 0)) // DAY, 27)) * DAY
        payload = {
            **self.head(), "public_id": number, "account_ids": self.accounts, "collateral_id": self.collateral.id,
            "collateral": self.sats, "price": w.price(), "collateralization_state": "FullyCollateralized",
            "pending_credit_facility_id": self.id, "activated_at": w.timestamp(),
            "maturity_date": day_of(self.maturity), "ledger_tx_id": w.uuid(),
            "outstanding": {"disbursed": 0 if self.multiple else self.amount, "interest": 0}}
        w.optional(payload, "structuring_fee_tx_id", w.uuid() if w.chance(0.7) else None)
        self.entity = tx.create("credit_facility", {
            "customer_id": self.c.id, "pending_credit_facility_id": self.id, "collateral_id": self.collateral.id,
            "collateralization_state": "FullyCollateralized", "status": "Active", "public_id": number,
            "maturity_date": day_of(self.maturity)}, payload, self.id)
        if self.legacy:
            tx.event(self.entity, "activated", {"ledger_tx_id": w.uuid()})
        self.state = "FullyCollateralized"
        self.start_cycle(tx, now)
        if not self.multiple:
            self.settle(tx, self.start_disbursal(tx, self.amount, self.id))
        w.commit(tx)

    # disbursals -------------------------------------------------------------------------------
    def start_disbursal(self, tx, amount, process_id, id_=None):
        w = self.w
        id_ = id_ or w.uuid()
        number = tx.public_id(id_)
        a = self.accounts
        payload = {
            "amount": amount, "facility_id": self.id, "public_id": number, "approval_process_id": process_id,
            "disbursal_credit_account_id": self.credit_account, "ledger_tx_id": w.uuid(),
            "due_date": day_of(self.maturity), "account_ids": {
                "defaulted_account_id": a["disbursed_defaulted_account_id"],
                "receivable_due_account_id": a["disbursed_receivable_due_account_id"],
                "receivable_not_yet_due_account_id": a["disbursed_receivable_not_yet_due_account_id"],
                "receivable_overdue_account_id": a["disbursed_receivable_overdue_account_id"]}}
        w.optional(payload, "overdue_date", day_of(self.maturity + 50 * DAY))
        w.optional(payload, "liquidation_date",
                   day_of(self.maturity + 60 * DAY) if self.payer == "default" else None)
        entity = tx.create("disbursal", {
            "credit_facility_id": self.id, "approval_process_id": process_id, "public_id": number,
            "status": "New", "amount": amount}, payload, id_)
        return entity, amount, process_id

    def settle(self, tx, disbursal):
        """The approved disbursal is paid out: it makes an obligation that is due at maturity."""
        w = self.w
        entity, amount, process_id = disbursal
        tx.event(entity, "approval_process_concluded", {"approved": True, "approval_process_id": process_id})
        ledger = w.uuid()
        debt = Debt(self, tx, "Disbursal", amount, max(self.maturity, midnight(w.now)))
        tx.event(entity, "settled", {"amount": amount, "effective": day_of(w.now), "ledger_tx_id": ledger,
                                     "obligation_id": debt.entity.id},
                 obligation_id=debt.entity.id, concluded_tx_id=ledger, status="Confirmed")
        self.disbursed += amount

    def later_disbursal(self, amount):
        """A disbursal with its own approval process, which has the disbursal's id."""
        w = self.w
        tx = self.tx()
        id_ = w.uuid()
        process, approved = people.approval(self.c, tx, "disbursal", id_, f"disbursal:{id_}")
        disbursal = self.start_disbursal(tx, amount, id_, id_)
        w.commit(tx)
        if approved is None:
            approved = yield from people.decide(self.c, process)
        yield w.hours(0.001, 0.02)
        tx = self.tx()
        if approved:
            self.settle(tx, disbursal)
        else:
            ledger = w.uuid()
            tx.event(disbursal[0], "approval_process_concluded", {"approved": False, "approval_process_id": id_})
            tx.event(disbursal[0], "cancelled", {"ledger_tx_id": ledger}, concluded_tx_id=ledger,
                     status="Cancelled")
        w.commit(tx)

    # interest ---------------------------------------------------------------------------------
    def start_cycle(self, tx, start):
        w, a = self.w, self.accounts
        self.cycle_no += 1
        self.accrued = self.accruals = 0
        self.cycle_until = shapes.cycle_end(start, self.maturity)
        period = shapes.period(w, start, self.cycle_until - 1)
        id_ = w.uuid()
        tx.event(self.entity, "interest_accrual_cycle_started", {
            "interest_accrual_id": id_, "interest_accrual_cycle_idx": self.cycle_no, "interest_period": period})
        self.cycle = tx.create("interest_accrual_cycle", {
            "credit_facility_id": self.id, "idx": self.cycle_no,
            "next_accrual_period_end": day_of(start)}, {
            "facility_id": self.id, "idx": self.cycle_no, "period": period, "terms": self.terms,
            "facility_maturity_date": day_of(self.maturity), "account_ids": {
                "defaulted_account_id": a["interest_defaulted_account_id"],
                "interest_income_account_id": a["interest_income_account_id"],
                "receivable_due_account_id": a["interest_receivable_due_account_id"],
                "receivable_not_yet_due_account_id": a["interest_receivable_not_yet_due_account_id"],
                "receivable_overdue_account_id": a["interest_receivable_overdue_account_id"],
                "uncovered_outstanding_account_id": a["uncovered_outstanding_account_id"]}}, id_)

    def accrue(self, day):
        """One day's interest on the principal that is out."""
        w = self.w
        principal = self.outstanding()["disbursed"]
        interest = int(principal * self.rate * 100) // 3_650_000
        self.accrued += interest
        self.accruals += 1
        tx = self.tx()
        tx.event(self.cycle, "interest_accrued", {
            "amount": interest, "accrued_at": w.timestamp(day + DAY - 1), "ledger_tx_id": w.uuid(),
            "tx_ref": f"{self.cycle.id}-interest-accrual-{self.accruals}"},
            next_accrual_period_end=day_of(day + DAY))
        w.commit(tx)

    def post_cycle(self, day):
        """The cycle's total becomes an obligation (none when it is 0), and the next cycle starts."""
        w = self.w
        tx = self.tx()
        payload = {"total": self.accrued, "effective": day_of(day), "ledger_tx_id": w.uuid(),
                   "tx_ref": f"{self.cycle.id}-interest-accrual-cycle-{self.cycle_no}"}
        debt = Debt(self, tx, "Interest", self.accrued, midnight(day) + DAY) if self.accrued else None
        id_ = debt.entity.id if debt else None
        w.optional(payload, "obligation_id", id_)
        tx.event(self.cycle, "interest_accruals_posted", payload, next_accrual_period_end=None)
        concluded = {"interest_accrual_cycle_idx": self.cycle_no, "ledger_tx_id": payload["ledger_tx_id"]}
        w.optional(concluded, "obligation_id", id_)
        tx.event(self.entity, "interest_accrual_cycle_concluded", concluded)
        if self.cycle_until < self.maturity:
            self.start_cycle(tx, self.cycle_until)
        else:
            self.cycle = None
        w.commit(tx)

    # the running facility ---------------------------------------------------------------------
    def run(self):
        """Day by day until all is paid."""
        w = self.w
        day = midnight(w.now)
        drawn = 0
        while True:
            yield w.until(day + DAY)
            if self.cycle:
                self.accrue(day)
                if day + DAY >= self.cycle_until:
                    yield w.rng.random() * 60
                    self.post_cycle(day)
            day += DAY
            if day >= self.maturity and not self.matured and not self.cycle:
                self.matured = True
                tx = self.tx()
                tx.event(self.entity, "matured", status="Matured")
                w.commit(tx)
            for debt in list(self.debts):
                debt.turn_of_day(day)
            yield w.hours(1, 10)
            if self.multiple and drawn < 3 and not self.matured and w.turn("draw", 9) == 0:
                drawn += 1
                yield from self.later_disbursal(self.amount // 4)
            yield from self.pay_what_is_due(day)
            if not self.liquidating:
                yield from self.watch_price()
            if self.matured and not self.debts and not self.liquidating:
                break
        yield w.hours(0.1, 5)
        self.complete()

    def watch_price(self):
        """Ratio and state as price and debt move; a margin call is mostly met, else it is liquidated."""
        w = self.w
        ratio = self.valuate()
        debt = self.owed()
        state = ("NoExposure" if not debt else "NoCollateral" if not self.sats else
                 "UnderLiquidationThreshold" if ratio < 10_500 else
                 "UnderMarginCallThreshold" if ratio < 12_500 else "FullyCollateralized")
        if state == self.state and abs(ratio - self.ratio_told) < 300:
            return
        self.ratio_told = ratio
        value = {"Finite": decimal(ratio)} if debt else "Infinite"
        tx = self.tx()
        tx.event(self.entity, "collateralization_ratio_changed", {"collateralization_ratio": value},
                 collateralization_ratio=decimal(ratio) if debt else None)
        if state != self.state:
            self.state = state
            tx.event(self.entity, "collateralization_state_changed", {
                "collateralization_state": state, "collateral": self.sats, "price": w.price(),
                "outstanding": self.outstanding()}, collateralization_state=state)
        w.commit(tx)
        if state == "UnderMarginCallThreshold" and self.payer == "good":
            yield w.hours(1, 12)
            self.add_collateral(self.sats + self.sats // 8)
        elif state == "UnderLiquidationThreshold":
            yield from self.liquidate()

    def liquidate(self):
        """Bitcoin is sold, the proceeds pay the debts. Each step is its own transaction."""
        w = self.w
        self.liquidating = True
        price = w.price()
        expected = self.owed() // 2 + 1
        to_sell = min(expected * SATS // price * 105 // 100 + 1, self.sats)
        id_, payment_id = w.uuid(), w.uuid()
        head = {"trigger_price": price, "initially_expected_to_receive": expected,
                "initially_estimated_to_liquidate": to_sell}
        tx = self.tx()
        tx.event(self.entity, "partial_liquidation_initiated", {"liquidation_id": id_, **head})
        w.commit(tx)
        yield w.hours(0.001, 0.02)
        tx = self.tx()
        tx.event(self.collateral, "liquidation_started", {"liquidation_id": id_})
        ids = {k: self.collateral_accounts[k] for k in ("collateral_in_liquidation_account_id",
                                                        "liquidated_collateral_account_id")}
        ids["proceeds_from_liquidation_account_id"] = self.accounts["proceeds_from_liquidation_account_id"]
        ids["liquidation_proceeds_omnibus_account_id"] = w.uuid()
        sale = tx.create("liquidation", {"collateral_id": self.collateral.id, "expected_to_receive": expected},
                         {"collateral_id": self.collateral.id, "account_ids": ids, **head}, id_)
        w.commit(tx)
        parts, sent = 1 + w.turn("parts of a sale", 3), 0
        for n in range(parts):
            yield w.hours(0.5, 10)
            part = to_sell // parts if n < parts - 1 else to_sell - sent
            sent += part
            self.sats -= part
            ledger = w.uuid()
            tx = self.tx()
            tx.event(self.collateral, "updated_via_liquidation", {
                "abs_diff": part, "direction": "Remove", "collateral_amount": self.sats, "liquidation_id": id_,
                "ledger_tx_id": ledger})
            tx.event(sale, "collateral_sent_out", {"amount": part, "ledger_tx_id": ledger}, sent_total=sent)
            w.commit(tx)
        yield w.hours(2, 30)
        received = max(1, sent * w.price() // SATS)
        ledger = w.uuid()
        tx = self.tx()
        tx.event(self.collateral, "liquidation_proceeds_received", {
            "amount": received, "liquidation_id": id_, "payment_id": payment_id, "ledger_tx_id": ledger})
        tx.event(self.collateral, "liquidation_completed", {"liquidation_id": id_})
        if w.legacy and w.turn("legacy sale", 4) == 0:
            tx.event(sale, "proceeds_from_liquidation_received", {"ledger_tx_id": w.uuid()})
        tx.event(sale, "proceeds_received_and_liquidation_completed", {"amount": received, "ledger_tx_id": ledger},
                 amount_received=received, completed=True)
        w.commit(tx)
        yield from self.pay(received, payment_id)
        tx = self.tx()
        tx.event(self.entity, "proceeds_from_partial_liquidation_applied", {"liquidation_id": id_})
        w.commit(tx)
        self.liquidating = False

    def pay_what_is_due(self, day):
        """What this kind of borrower pays today."""
        due = sorted((d for d in self.debts if d.due <= day), key=Debt.order)
        if not due:
            return
        age = (day - due[0].due) // DAY
        owed = sum(d.left for d in due)
        patience = {"good": due[0].number % 4, "parts": 1, "late": 53, "default": 135, "stops": math.inf}[self.payer]
        if self.payer == "default" and self.w.hard:
            patience = math.inf
        elif self.payer == "default" and due[0].number == 1 or self.payer == "stops" and due[0].number <= 2:
            patience = 0
        if age < patience:
            return
        if self.payer == "parts" and self.payments % 3 != 2:
            if day < self.next_part:
                return
            self.next_part = day + 6 * DAY
            owed = max(1, owed * 2 // 5)
        yield from self.pay(owed)

    def pay(self, amount, id_=None):
        """Money is put aside; the next transaction splits it over the open obligations, first due first."""
        w = self.w
        self.payments += 1
        tx = self.tx()
        payment = tx.create("payment", {"beneficiary_id": self.id}, {
            "amount": amount, "beneficiary_id": self.id, "effective": day_of(w.now), "ledger_tx_id": w.uuid(),
            "payment_source_account_id": self.credit_account,
            "facility_payment_holding_account_id": self.accounts["payment_holding_account_id"],
            "facility_uncovered_outstanding_account_id": self.accounts["uncovered_outstanding_account_id"]}, id_)
        w.commit(tx)
        yield 0.5 + w.rng.random() * 20
        tx = self.tx()
        number = 0
        while amount > 0 and self.debts:
            debt = min(self.debts, key=Debt.order)
            part = min(amount, debt.left)
            amount -= part
            number += 1
            debt.allocate(tx, payment.id, part, number)
        if number:
            w.commit(tx)

    def complete(self):
        """All is paid: the facility completes and its collateral goes back."""
        w = self.w
        tx = self.tx()
        tx.event(self.entity, "completed", status="Closed")
        if self.sats:
            tx.event(self.collateral, "updated_via_manual_input", {
                "abs_diff": self.sats, "direction": "Remove", "collateral_amount": 0, "ledger_tx_id": w.uuid()})
        w.commit(tx)


class Debt:
    """An obligation that is not completed."""

    def __init__(self, facility, tx, type_, amount, due):
        w = facility.w
        self.facility, self.type, self.left, self.due = facility, type_, amount, due
        self.number = w.turn("debts of " + facility.id, 1 << 30) + 1
        self.stage = 0          # 0 not yet due, 1 due, 2 overdue, 3 defaulted
        bad = facility.payer == "default"
        self.overdue = due + 50 * DAY if facility.payer != "good" or w.chance(0.5) else None
        self.defaulted = due + 110 * DAY if bad else None
        accounts, prefix = facility.accounts, "disbursed" if type_ == "Disbursal" else "interest"
        self.receivable = {k: accounts[f"{prefix}_receivable_{k}_account_id"]
                           for k in ("not_yet_due", "due", "overdue")}
        id_ = w.uuid()
        payload = {
            "amount": amount, "beneficiary_id": facility.id, "obligation_type": type_, "reference": f"ob-{id_}",
            "due_date": day_of(due), "effective": day_of(w.now), "ledger_tx_id": w.uuid(),
            "defaulted_account_id": accounts[f"{prefix}_defaulted_account_id"],
            "receivable_account_ids": self.receivable}
        w.optional(payload, "overdue_date", self.overdue and day_of(self.overdue))
        w.optional(payload, "liquidation_date", day_of(due + 60 * DAY) if bad else None)
        w.optional(payload, "defaulted_date", self.defaulted and day_of(self.defaulted))
        self.entity = tx.create("obligation", {
            "beneficiary_id": facility.id, "reference": f"ob-{id_}",
            "next_transition_date": day_of(due)}, payload, id_)
        facility.debts.append(self)

    def order(self):
        return self.due, self.number

    def turn_of_day(self, day):
        """Due, overdue, defaulted: each recorded in its own transaction on its day."""
        w = self.facility.w
        steps = [(self.due, "due_recorded", "due_amount"), (self.overdue, "overdue_recorded", "overdue_amount"),
                 (self.defaulted, "defaulted_recorded", "defaulted_amount")]
        while self.stage < 3:
            date, type_, key = steps[self.stage]
            if date is None or day < date:
                return
            self.stage += 1
            following = steps[self.stage][0] if self.stage < 3 else None
            tx = self.facility.tx()
            tx.event(self.entity, type_, {key: self.left, "ledger_tx_id": w.uuid()},
                     next_transition_date=following and day_of(following))
            w.commit(tx)

    def allocate(self, tx, payment_id, amount, number):
        """A part of a payment; the obligation completes in the same transaction when nothing is left."""
        w = self.facility.w
        id_ = w.uuid()      # the allocation and its ledger transaction share it
        self.left -= amount
        tx.event(self.entity, "payment_allocated", {
            "payment_id": payment_id, "payment_allocation_id": id_, "payment_allocation_amount": amount,
            "ledger_tx_id": id_})
        if not self.left:
            tx.event(self.entity, "completed", {"effective": day_of(w.now)}, next_transition_date=None)
            self.facility.debts.remove(self)
        stage = ("not_yet_due", "due", "overdue", "overdue")[self.stage]
        tx.create("payment_allocation", {
            "payment_id": payment_id, "obligation_id": self.entity.id, "beneficiary_id": self.facility.id}, {
            "amount": amount, "payment_id": payment_id, "obligation_id": self.entity.id, "ledger_tx_id": id_,
            "beneficiary_id": self.facility.id, "obligation_type": self.type, "effective": day_of(w.now),
            "payment_allocation_idx": number, "receivable_account_id": self.receivable[stage],
            "payment_holding_account_id": self.facility.accounts["payment_holding_account_id"]}, id_)


def facility(w, bank, c):
    """The life of one facility of customer c."""
    return Facility(w, bank, c).life()
