"""Customers: prospect, know-your-customer, deposit account, money in and out, documents."""
from . import credit, shapes

# How applications go; taken in turn, so that each way is seen early.
WAYS = ["approved", "approved", "pending", "approved", "declined", "manual", "approved", "on_hold", "approved",
        "approved", "declined_closed", "approved", "pending", "approved", "abandoned", "approved", "approved"]


class Customer:
    """What the lives of one customer share."""

    def __init__(self, w, bank, lane):
        self.w, self.bank, self.lane = w, bank, lane
        self.type = w.rng.choice(shapes.CUSTOMER_TYPES)
        self.id = None          # also the prospect's
        self.entity = self.account = self.public_id = None
        self.ledger_account = None
        self.open_lives = 0     # facilities and withdrawals under way
        self.balance = 0        # deposits less withdrawals, in cents
        self.frozen = self.closed = False

    def tx(self):
        return self.w.tx(self.lane)


def customer(w, bank, lane):
    """From the first contact to the closed account (or as long as the bank lives)."""
    c = Customer(w, bank, lane)
    party, prospect = apply(c)
    w.start(contact(c, party), w.hours(1, 48))
    w.start(document(c), w.hours(1, 24))
    if not (yield from know_your_customer(c, party, prospect)):
        return
    yield w.hours(0.01, 0.2)
    open_account(c)
    yield w.hours(1, 24)
    for n in range(1 + w.turn("first deposits", 2)):
        w.start(deposit(c), w.hours(0, 24 * 5 * (n + 1)))
    for n in range(w.turn("facilities", 2) + (w.turn("more facilities", 6) == 5)):
        w.start(credit.facility(w, bank, c), w.hours(24 * 2, 24 * 10) + n * 86400 * 40)
    yield from live(c)


def apply(c):
    """Party and prospect, in one transaction."""
    w = c.w
    first, last, email, telegram = shapes.person(w)
    tx = c.tx()
    party = tx.create("party", {"email": email, "telegram_handle": telegram}, {
        "email": email, "telegram_handle": telegram, "customer_type": c.type})
    c.id = w.uuid()
    c.public_id = tx.public_id(c.id)
    prospect = tx.create(
        "prospect", {"party_id": party.id, "customer_type": c.type, "public_id": c.public_id, "stage": "new"},
        {"party_id": party.id, "customer_type": c.type, "public_id": c.public_id, "stage": "new"}, c.id)
    w.commit(tx)
    return party, prospect


def contact(c, party):
    """What becomes known of a party, or changes."""
    w = c.w
    for n in range(1 + (w.turn("contact", 4) == 0)):
        tx = c.tx()
        first, last, email, telegram = shapes.person(w)
        info = {"firstName": first, "lastName": last}
        w.optional(info, "nationality", w.rng.choice(shapes.COUNTRIES) if w.chance(0.8) else None)
        w.optional(info, "dateOfBirth", "%d-%02d-%02d" % (w.rng.randrange(1950, 2004), w.rng.randrange(1, 13),
                                                          w.rng.randrange(1, 29)) if w.chance(0.8) else None)
        w.optional(info, "address", w.rng.choice(shapes.STREETS) if w.chance(0.6) else None)
        w.optional(info, "companyName", last + " S.A. de C.V." if c.type != "Individual" else None)
        tx.event(party, "personal_info_updated", {"personal_info": info})
        if w.turn("new mail", 8) == 3:
            tx.event(party, "email_updated", {"email": email}, email=email)
        w.commit(tx)
        yield w.hours(24, 24 * 40)
        if w.turn("new handle", 9) == 3:
            tx = c.tx()
            tx.event(party, "telegram_handle_updated", {"telegram_handle": telegram}, telegram_handle=telegram)
            w.commit(tx)


def know_your_customer(c, party, prospect):
    """True when the prospect became a customer."""
    w = c.w
    way = WAYS[w.turn("ways", len(WAYS))]

    def step(type_, stage=None, **more):
        tx = c.tx()
        if stage:
            tx.event(prospect, type_, {"stage": stage, **more}, stage=stage)
        else:
            tx.event(prospect, type_, more)
        return tx

    yield w.hours(0.1, 20)
    if way == "manual":
        tx = step("manually_converted", "converted")
        convert(c, tx, party, {"type": "manually_converted"}, "NotKyced")
        return True
    w.commit(step("verification_link_created",
                  url=f"https://kyc.example.com/websdk/p/{w.uuid()}?lng=es&x=%C3%A1"))
    yield w.hours(0.1, 20)
    if way == "abandoned":
        w.commit(step("closed", "closed"))
        return False
    applicant = "%024x" % w.rng.getrandbits(96)
    w.commit(step("kyc_started", "kyc-started", applicant_id=applicant))
    yield w.hours(0.1, 2)
    if way in ("pending", "on_hold"):
        w.commit(step("kyc_pending", "kyc-pending"))
        yield w.hours(1, 30)
    if way == "on_hold":
        w.commit(step("kyc_on_hold", "kyc-on-hold"))
        yield w.hours(1, 30)
    if way.startswith("declined"):
        w.commit(step("kyc_declined", "kyc-declined"))
        if way == "declined_closed":
            yield w.hours(24, 72)
            w.commit(step("closed", "closed"))
        return False
    level = "Advanced" if w.turn("level", 5) == 4 else "Basic"
    tx = step("kyc_approved", "converted", level=level)
    convert(c, tx, party, {"type": "sumsub_approved", "applicant_id": applicant}, level)
    return True


def convert(c, tx, party, conversion, level):
    """The prospect becomes a customer: same id, and its public id moves on, in the same transaction."""
    c.entity = tx.create(
        "customer", {"party_id": party.id, "customer_type": c.type, "public_id": c.public_id}, {
            "party_id": party.id, "customer_type": c.type, "public_id": c.public_id, "level": level,
            "conversion": conversion}, c.id)
    tx.move_public_id(c.public_id, c.id)
    c.w.commit(tx)


def open_account(c):
    w = c.w
    tx = c.tx()
    id_ = w.uuid()
    number = tx.public_id(id_)
    ids = shapes.uuids(w, ["deposit_account_id", "frozen_deposit_account_id"])
    c.ledger_account = ids["deposit_account_id"]
    payload = {"account_holder_id": c.id, "account_ids": ids, "public_id": number, "status": "active"}
    if w.chance(0.9):
        payload["activity"] = "active"
    c.account = tx.create("deposit_account", {
        "account_holder_id": c.id, "public_id": number, "status": "active"}, payload, id_)
    w.commit(tx)


def deposit(c):
    """A deposit, confirmed at once; one in twelve is reverted later."""
    w = c.w
    if c.closed or c.frozen:
        return
    tx = c.tx()
    id_ = w.uuid()
    number = tx.public_id(id_)
    amount = w.rng.randrange(1_000, 90_000) * 100 + w.rng.randrange(100)
    reverted = w.turn("revert deposit", 12) == 3
    c.balance += 0 if reverted else amount
    entity = tx.create("deposit", {
        "deposit_account_id": c.account.id, "reference": f"dep-{id_}", "public_id": number,
        "status": "Confirmed", "amount": amount}, {
        "amount": amount, "status": "Confirmed", "public_id": number, "reference": f"dep-{id_}",
        "ledger_tx_id": w.uuid(), "deposit_account_id": c.account.id}, id_)
    w.commit(tx)
    if reverted:
        yield w.hours(1, 72)
        tx = c.tx()
        tx.event(entity, "reverted", {"status": "Reverted", "ledger_tx_id": w.uuid()}, status="Reverted")
        w.commit(tx)


def approval(c, tx, kind, id_, target):
    """Opens an approval process in tx; None when a committee must decide, else True: approved at once."""
    w, rule = c.w, c.bank.rules[kind]
    policy = c.bank.policies[kind]
    committee = rule.get("committee_id")
    process = tx.create("approval_process", {
        "policy_id": policy.id, "committee_id": committee, "process_type": kind}, {
        "policy_id": policy.id, "process_type": kind, "rules": rule, "target_ref": target}, id_)
    if committee is None:
        tx.event(process, "concluded", {"approved": True})
        return process, True
    return process, None


def decide(c, process):
    """The committee votes, each member in a transaction; the last vote concludes. True: approved."""
    w = c.w
    members = list(c.bank.members)
    denied = w.turn("denied by committee", 8) == 5
    for n, member in enumerate(members):
        yield w.hours(0.1, 8)
        tx = c.tx()
        last = n == len(members) - 1
        if last and denied:
            reason = w.rng.choice(["Not enough collateral", "Límite excedido: \"máx. 10 %\"", "policy §4"])
            tx.event(process, "denied", {"denier_id": member, "reason": reason})
            tx.event(process, "concluded", {"approved": False})
        else:
            tx.event(process, "approved", {"approver_id": member})
            if last:
                tx.event(process, "concluded", {"approved": True})
        w.commit(tx)
    return not denied


def withdrawal(c):
    """Asked for, approved or denied, then confirmed or cancelled; a few confirmed ones are reverted."""
    w = c.w
    amount = min(w.rng.randrange(100, 20_000) * 100, c.balance // 2)
    if c.closed or c.frozen or amount <= 0:
        return
    c.open_lives += 1
    c.balance -= amount
    tx = c.tx()
    id_ = w.uuid()
    number = tx.public_id(id_)
    process, approved = approval(c, tx, "withdraw", id_, f"withdrawal:{id_}")
    entity = tx.create("withdrawal", {
        "deposit_account_id": c.account.id, "approval_process_id": id_, "reference": f"wd-{id_}",
        "public_id": number, "status": "PendingApproval", "amount": amount}, {
        "amount": amount, "status": "PendingApproval", "public_id": number, "reference": f"wd-{id_}",
        "ledger_tx_id": w.uuid(), "deposit_account_id": c.account.id, "approval_process_id": id_}, id_)
    w.commit(tx)
    if approved is None:
        approved = yield from decide(c, process)
    yield w.hours(0.001, 0.02)

    def move(tx, type_, status, **payload):
        tx.event(entity, type_, {"status": status, **payload}, status=status)
        return tx

    tx = move(c.tx(), "approval_process_concluded", "PendingConfirmation" if approved else "Denied",
              approved=approved, approval_process_id=id_)
    if not approved:
        move(tx, "denied", "Denied", ledger_tx_id=w.uuid())
    w.commit(tx)
    if approved:
        yield w.hours(1, 48)
        if w.turn("cancel withdrawal", 9) == 4:
            w.commit(move(c.tx(), "cancelled", "Cancelled", ledger_tx_id=w.uuid()))
        else:
            w.commit(move(c.tx(), "confirmed", "Confirmed", ledger_tx_id=w.uuid()))
            if w.turn("revert withdrawal", 10) == 3:
                yield w.hours(1, 48)
                w.commit(move(c.tx(), "reverted", "Reverted", ledger_tx_id=w.uuid()))
    c.open_lives -= 1


def document(c):
    """A file of the customer: uploaded or not, read a few times, then archived or deleted, or kept."""
    w = c.w
    n = w.turn("document", 1000)
    id_ = w.uuid()
    name = w.rng.choice(["Pasaporte José.pdf", "loan \"agreement\" 2024.pdf", "収入証明.pdf", "id-card.png"])
    clean = "".join(ch if ch.isascii() and (ch.isalnum() or ch in ".-") else "_" for ch in name)
    tx = c.tx()
    entity = tx.create("document", {"reference_id": c.id}, {
        "document_type": w.rng.choice(["customer_document", "loan_agreement"]), "original_filename": name,
        "sanitized_filename": clean, "content_type": "application/pdf" if name.endswith("pdf") else "image/png",
        "path_in_storage": f"documents/{c.id}/{id_}/{clean}", "storage_identifier": "gcp:lana-documents",
        "reference_id": c.id}, id_)
    w.commit(tx)
    yield w.hours(0.001, 0.01)
    tx = c.tx()
    if n % 11 == 3:
        tx.event(entity, "upload_failed", {"error": "storage: 503 \"slow down\""})
        w.commit(tx)
        return
    tx.event(entity, "file_uploaded")
    w.commit(tx)
    for _ in range(n % 3):
        yield w.hours(1, 24 * 20)
        tx = c.tx()
        tx.event(entity, "download_link_generated")
        w.commit(tx)
    if n % 5 == 1:
        yield w.hours(24, 24 * 20)
        tx = c.tx()
        if n % 2:
            tx.event(entity, "deleted", deleted=True)
        else:
            tx.event(entity, "archived")
        w.commit(tx)


def live(c):
    """Money in and out, quiet times, freezes; at last the account and the customer are closed."""
    w = c.w
    status = "active"
    for n in range(2 + w.turn("active months", 7)):
        yield w.hours(24 * 5, 24 * 35)
        if w.closing:
            return
        if w.chance(0.4):
            w.start(deposit(c))
        if w.chance(0.6) and status == "active":
            w.start(withdrawal(c), w.hours(0, 24))
        if w.turn("quiet", 20) == 7:
            yield from quiet(c)
        if w.turn("freeze", 25) == 9:
            yield from freeze(c)
    if c.open_lives or w.turn("close", 4):
        return
    yield w.hours(24 * 40, 24 * 60)
    if c.open_lives:
        return
    c.closed = True
    tx = c.tx()
    tx.event(c.account, "closed", {"status": "closed"}, status="closed")
    w.commit(tx)
    yield w.hours(0.1, 1)
    tx = c.tx()
    tx.event(c.entity, "closed", {"status": "closed"}, status="closed")
    w.commit(tx)


def quiet(c):
    """The account falls asleep, and mostly wakes up again."""
    w = c.w
    for activity in (["inactive", "active"], ["inactive", "escheatable"])[w.turn("escheat", 3) == 2]:
        tx = c.tx()
        tx.event(c.account, "activity_updated", {"activity": activity}, activity=activity)
        w.commit(tx)
        yield w.hours(24 * 3, 24 * 12)


def freeze(c):
    """Account and customer are frozen and freed again, each in its own transaction."""
    w = c.w
    for type_, status in (("frozen", "frozen"), ("unfrozen", "active")):
        c.frozen = True
        tx = c.tx()
        tx.event(c.account, type_, {"status": status}, status=status)
        w.commit(tx)
        yield w.hours(0.01, 0.1)
        tx = c.tx()
        tx.event(c.entity, type_, {"status": status}, status=status)
        w.commit(tx)
        yield w.hours(24, 24 * 5)
    c.frozen = False
