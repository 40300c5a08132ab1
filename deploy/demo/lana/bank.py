"""The bank itself: staff and rules, chart and calendar, reports, and the arrival of customers."""
from . import people, shapes
from .world import DAY, World, day_of, midnight, month_start

PERMISSION_SETS = {
    "admin": [("user", "create"), ("user", "update"), ("role", "update"), ("audit", "list")],
    "bank_manager": [("customer", "*"), ("deposit", "*"), ("withdrawal", "approve"), ("policy", "update")],
    "credit_officer": [("credit-facility", "*"), ("disbursal", "initiate"), ("collateral", "update")],
    "accountant": [("chart", "*"), ("ledger-account", "read"), ("fiscal-year", "close")],
    "auditor": [("audit", "list"), ("report", "read")],
}
CONFIGS = [
    ("timezone", "timezone", "exposed", False, "America/El_Salvador"),
    ("closing-time", "time", "exposed", False, "23:59:00"),
    ("require-verified-customer-for-account", "bool", "exposed", False, True),
    ("deposit-activity-escheatable-after-days", "uint", "exposed", False, 3650),
    ("margin-call-grace", "int", "internal", False, -2),
    ("structuring-fee", "decimal", "internal", False, "0.0125"),
    ("notification-sender", "complex", "internal", False, {"name": "Lana", "reply_to": None, "cc": []}),
    ("smtp-password", "string", "internal", True, None),
    ("sumsub-secret", "string", "internal", True, None),
]
CHART = [("1", "Assets", "debit"), ("1.1", "Cash and equivalents", "debit"), ("1.2", "Loans receivable", "debit"),
         ("1.2.01", "Disbursed, not yet due", "debit"), ("1.2.02", "Disbursed, due", "debit"),
         ("1.2.03", "Interest receivable", "debit"), ("2", "Liabilities", "credit"),
         ("2.1", "Customer deposits", "credit"), ("2.1.01", "Deposits of individuals", "credit"),
         ("2.1.02", "Deposits of companies", "credit"), ("3", "Equity", "credit"),
         ("3.1", "Retained earnings", "credit"), ("3.2", "Retained losses", "credit"),
         ("4", "Revenue", "credit"), ("4.1", "Interest income", "credit"), ("4.2", "Fee income", "credit"),
         ("5", "Cost of revenue", "debit"), ("6", "Expenses", "debit"), ("6.1", "Provisions", "debit")]
NORMS = [("nrp_41", "nrp_41_05_referencia"), ("nrp_51", "saldo_cuenta"), ("nrsf_03", "09_titulares"),
         ("general", "income_statement")]


def transactions(world: World):
    """The endless stream of transactions of one bank (until `world.closing`, then to the last life's end)."""
    bank = Bank(world)
    world.start(bank.open())
    return world.run()


class Bank:
    """What all lives refer to. Its own transactions are in lane 0."""

    def __init__(self, world):
        self.w = world
        self.user_ids = world.users
        self.users, self.roles, self.sets, self.configs = [], [], [], []
        self.templates, self.policies, self.custodians, self.nodes = [], {}, [], {}
        self.committee = self.chart = self.year = None
        self.members, self.rules = [], {}

    # opening ----------------------------------------------------------------------------------
    def open(self):
        """Everything that customers refer to, then the lives that go on by themselves."""
        w = self.w
        yield from self.open_staff()
        yield from self.open_rules()
        yield from self.open_chart()
        w.start(self.arrivals())
        w.start(self.calendar())
        w.start(self.administration())
        w.start(self.reports())
        w.start(self.bookings())

    def open_staff(self):
        w = self.w
        tx = w.tx(0)
        for name, rights in PERMISSION_SETS.items():
            rights = [{"object": o, "action": a} for o, a in rights]
            self.sets.append(tx.create("permission_set", {"name": name}, {"name": name, "permissions": rights}))
        w.commit(tx)
        yield 1
        tx = w.tx(0)
        for n, name in enumerate(["superuser", "manager", "officer", "accountant"]):
            held = [self.sets[n].id, self.sets[-1].id]
            role = tx.create("role", {"name": name}, {"name": name, "permission_set_ids": list(held)})
            self.roles.append((role, held))
        w.commit(tx)
        for n in range(6):
            yield 5
            tx = w.tx(0)
            email = f"staff{n}@lana.example"
            user = tx.create("user", {"email": email}, {"email": email, "role_id": self.roles[n % 4][0].id})
            self.users.append(user)
            self.user_ids.append(user.id)
            w.commit(tx)

    def open_rules(self):
        w = self.w
        tx = w.tx(0)
        self.committee = tx.create("committee", {"name": "Credit committee"}, {"name": "Credit committee"})
        w.commit(tx)
        for user in self.users[:3]:
            yield 2
            tx = w.tx(0)
            tx.event(self.committee, "member_added", {"member_id": user.id})
            self.members.append(user.id)
            w.commit(tx)
        for kind in ["credit-facility-proposal", "disbursal", "withdraw"]:
            yield 2
            tx = w.tx(0)
            policy = tx.create("policy", {"process_type": kind},
                               {"process_type": kind, "rules": {"type": "auto_approve"}})
            self.policies[kind] = policy
            self.rules[kind] = {"type": "auto_approve"}
            w.commit(tx)
        yield 2
        self.set_rule("credit-facility-proposal", True)
        self.set_rule("withdraw", True)
        for name, provider in [("Manual vault", "manual"), ("Komainu", "komainu"), ("BitGo", "bitgo")]:
            yield 3
            tx = w.tx(0)
            entity = tx.create("custodian", {"name": name, "provider": provider}, {"name": name, "provider": provider})
            tx.event(entity, "config_updated", {"encrypted_custodian_config": shapes.encrypted(w)})
            self.custodians.append([entity, 0])
            w.commit(tx)
        for months in (1, 3, 6, 12):
            yield 3
            tx = w.tx(0)
            name = f"{months} months"
            self.templates.append((tx.create("terms_template", {"name": name}, {
                "name": name, "values": shapes.terms(w, months, months > 3, 12, months > 3)}), months))
            w.commit(tx)
        for key, type_, visibility, secret, value in CONFIGS:
            yield 1
            tx = w.tx(0)
            payload = {"key": key, "config_type": type_, "visibility": visibility, "encrypted": secret}
            default = None if secret else {"type": "plain", "value": value}
            w.optional(payload, "default_value", default)
            config = tx.create("domain_config", {"key": key, "visibility": visibility, "encrypted": secret}, payload)
            self.configs.append((config, secret, value))
            w.commit(tx)

    def open_chart(self):
        w = self.w
        tx = w.tx(0)
        self.chart = tx.create("chart", {"reference": "primary"},
                               {"name": "Chart of accounts", "reference": "primary", "account_set_id": w.uuid()})
        w.commit(tx)
        for code, name, side in CHART:
            yield 1
            self.add_node(code, name, side)
        yield 60
        tx = w.tx(0)
        keys = [("assets_code", "1"), ("liabilities_code", "2"), ("equity_code", "3"),
                ("equity_retained_earnings_gain_code", "3.1"), ("equity_retained_earnings_loss_code", "3.2"),
                ("revenue_code", "4"), ("cost_of_revenue_code", "5"), ("expenses_code", "6")]
        tx.event(self.chart, "base_config_set", {"base_config": {k: shapes.code(c) for k, c in keys}})
        w.commit(tx)
        yield 60
        self.open_year(midnight(w.now))

    def open_year(self, first):
        w = self.w
        tx = w.tx(0)
        year = day_of(first)[:4]
        reference = f"AC-{year}-{w.turn('years', 10 ** 9)}"
        self.year = tx.create(
            "fiscal_year", {"chart_id": self.chart.id, "reference": reference, "opened_as_of": day_of(first)},
            {"chart_id": self.chart.id, "reference": reference, "year": year, "opened_as_of": day_of(first)})
        w.commit(tx)

    def add_node(self, code, name, side):
        """A chart node under its parent: the parent's event is in the same transaction."""
        w = self.w
        tx = w.tx(0)
        parent = code.rpartition(".")[0]
        spec = {"code": shapes.code(code), "name": {"name": name}, "normal_balance_type": side}
        w.optional(spec, "parent", shapes.code(parent) if parent else None)
        node = tx.create("chart_node", {"chart_id": self.chart.id}, {
            "chart_id": self.chart.id, "ledger_account_set_id": w.uuid(), "spec": spec})
        self.nodes[code] = node
        if parent:
            tx.event(self.nodes[parent], "child_node_added", {"child_node_id": node.id})
        w.commit(tx)

    def set_rule(self, kind, committee):
        w = self.w
        rule = {"type": "committee", "committee_id": self.committee.id} if committee else {"type": "auto_approve"}
        self.rules[kind] = rule
        tx = w.tx(0)
        tx.event(self.policies[kind], "approval_rules_updated", {"rules": rule},
                 committee_id=self.committee.id if committee else None)
        w.commit(tx)

    # lives that go on -------------------------------------------------------------------------
    def arrivals(self):
        """New customers; the bank grows by a third a year."""
        w = self.w
        opened = w.now
        while not w.closing:
            growth = 1 + (w.now - opened) / (1095 * DAY)
            yield w.rng.expovariate(1.05 * w.scale * growth) * 86400
            w.start(people.customer(w, self, w.new_lane()))

    def calendar(self):
        """Months are closed on the 3rd of the next one, the year on the 10th of January."""
        w = self.w
        while not w.closing:
            first = month_start(w.now, 0)
            last_day = day_of(month_start(first, 1) - DAY)
            yield w.until(month_start(first, 1) + 2 * DAY)
            tx = w.tx(0)
            tx.event(self.year, "month_closed", {
                "month_closed_as_of": last_day, "month_closed_at": w.timestamp()})
            tx.event(self.chart, "closed_as_of", {"closed_as_of": last_day})
            w.commit(tx)
            if last_day[5:] == "12-31":
                yield w.until(midnight(w.now) + 7 * DAY)
                tx = w.tx(0)
                tx.event(self.year, "year_closed", {
                    "closed_as_of": last_day, "closed_at": w.timestamp(), "ledger_tx_id": w.uuid()})
                tx.event(self.chart, "closing_transaction_posted", {"posted_as_of": last_day})
                w.commit(tx)
                yield 30
                self.open_year(month_start(w.now, 0))

    def administration(self):
        """Staff, rules, secrets and templates change now and then."""
        w = self.w
        acts = [self.change_user, self.change_role, self.change_config, self.change_node, self.change_committee,
                self.change_custodian, self.change_template, self.change_config, self.change_policy]
        while not w.closing:
            yield w.hours(12, 60)
            acts[w.turn("acts", len(acts))]()

    def change_user(self):
        w = self.w
        tx = w.tx(0)
        tx.event(w.rng.choice(self.users[3:]), "role_updated", {"role_id": w.rng.choice(self.roles)[0].id})
        w.commit(tx)

    def change_role(self):
        """Adds or takes away a permission set; now and then the last one."""
        w = self.w
        role, held = self.roles[w.turn("role", 4)]
        tx = w.tx(0)
        if held and (w.turn("role change", 3) or len(held) > 3):
            tx.event(role, "permission_set_removed", {"permission_set_id": held.pop()})
        else:
            free = [s.id for s in self.sets if s.id not in held]
            held.append(free[0])
            tx.event(role, "permission_set_added", {"permission_set_id": free[0]})
        w.commit(tx)

    def change_config(self):
        w = self.w
        config, secret, value = self.configs[w.turn("config", len(self.configs))]
        tx = w.tx(0)
        if not secret:
            tx.event(config, "updated", {"value": {"type": "plain", "value": value}})
        elif w.turn("secret", 2):
            tx.event(config, "key_rotated", {"value": shapes.encrypted(w)})
        else:
            tx.event(config, "updated", {"value": {"type": "encrypted", **shapes.encrypted(w)}})
        w.commit(tx)

    def change_node(self):
        w = self.w
        if w.turn("node", 2):
            parent = ["1.1", "4.2", "5", "6.1"][w.turn("parent", 4)]
            self.add_node(f"{parent}.{w.turn('new node', 10 ** 9) + 100}", "New account", "debit")
            return
        tx = w.tx(0)
        tx.event(self.nodes[w.rng.choice(["6", "4.2", "1.1"])], "manual_transaction_account_assigned",
                 {"ledger_account_id": w.uuid()})
        w.commit(tx)

    def change_committee(self):
        w = self.w
        tx = w.tx(0)
        if len(self.members) > 2:
            tx.event(self.committee, "member_removed", {"member_id": self.members.pop(0)})
        else:
            new = w.rng.choice([u.id for u in self.users if u.id not in self.members])
            self.members.append(new)
            tx.event(self.committee, "member_added", {"member_id": new})
        w.commit(tx)

    def change_custodian(self):
        w = self.w
        tx = w.tx(0)
        tx.event(w.rng.choice(self.custodians)[0], "config_updated",
                 {"encrypted_custodian_config": shapes.encrypted(w)})
        w.commit(tx)

    def change_template(self):
        w = self.w
        template, months = w.rng.choice(self.templates)
        tx = w.tx(0)
        tx.event(template, "term_values_updated", {
            "values": shapes.terms(w, months, months > 3, w.rng.choice([11, 12, 13]), months > 3)})
        w.commit(tx)

    def change_policy(self):
        committee = self.rules["disbursal"]["type"] == "auto_approve"
        self.set_rule("disbursal", committee)

    def next_receive_index(self, custodian):
        """A life of lane 0 that hands out one receive index: the custodian belongs to all customers."""
        w = self.w
        tx = w.tx(0)
        tx.event(custodian[0], "receive_index_allocated", {"receive_index": custodian[1]})
        custodian[1] += 1
        w.commit(tx)
        return
        yield

    def reports(self):
        w = self.w
        while not w.closing:
            yield w.rng.expovariate(1.0 * w.scale) * 86400
            w.start(self.report_run(w.new_lane()))

    def report_run(self, lane):
        """initialized, its states, and one report per file set when it went well."""
        w = self.w
        manual = w.turn("report", 3) == 0
        norm, name = w.rng.choice(NORMS)
        payload = {"external_id": w.uuid(), "state": "queued", "run_type": "manual" if manual else "scheduled"}
        asked = {"norm": norm, "name": name, "report_definition_id": f"{norm}/{name}"} if manual else None
        as_of = day_of(w.now - DAY) if manual else None
        w.optional(payload, "requested_report", asked)
        w.optional(payload, "requested_as_of_date", as_of)
        w.optional(payload, "start_time", None)
        tx = w.tx(lane)
        run = tx.create("report_run", {"external_id": payload["external_id"]}, payload)
        w.commit(tx)
        yield w.hours(0.01, 0.1)
        if w.turn("renamed run", 3) == 0:
            tx = w.tx(lane)
            external = f"{payload['run_type']}__{w.timestamp()}__{run.id[:8]}"
            tx.event(run, "external_id_updated", {"external_id": external}, external_id=external)
            w.commit(tx)
            yield w.hours(0.01, 0.1)
        started = w.timestamp()
        failed = w.turn("failed run", 9) == 4
        for state in ("running", "failed" if failed else "success"):
            tx = w.tx(lane)
            change = {"state": state, "run_type": payload["run_type"]}
            w.optional(change, "start_time", started if w.chance(0.8) else None)
            w.optional(change, "requested_report", asked)
            w.optional(change, "requested_as_of_date", as_of)
            tx.event(run, "state_updated", change)
            w.commit(tx)
            yield w.hours(0.02, 0.3)
        if failed:
            return
        for n in range(w.turn("reports", 3) + 1):
            tx = w.tx(lane)
            external = f"{norm}/{name}/{run.id}/{n}"
            files = [{"extension": e, "path_in_bucket": f"reports/{run.id}/{norm}/{name}.{e}"}
                     for e in ("csv", "xml", "txt")[:w.turn("files", 4)]]
            tx.create("report", {"external_id": external, "run_id": run.id}, {
                "external_id": external, "run_id": run.id, "name": name, "norm": norm, "files": files})
            w.commit(tx)
            yield 1

    def bookings(self):
        w = self.w
        while not w.closing:
            yield w.rng.expovariate(0.25 * w.scale) * 86400
            tx = w.tx(w.new_lane())
            reference, ledger = f"MT-{w.turn('booking', 10 ** 9)}", w.uuid()
            tx.create("manual_transaction", {"reference": reference, "ledger_transaction_id": ledger}, {
                "reference": reference, "ledger_transaction_id": ledger,
                "description": "Correction, agreed with accounting: \"round-off\" \\ 2nd half"})
            w.commit(tx)
