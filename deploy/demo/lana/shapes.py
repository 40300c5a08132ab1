"""Pieces of payloads that several lives share."""
from .world import month_start

PEOPLE = ["Ana", "Óscar", "Li", "Zoë", "Mateo", "Noor", "Inés", "Tomáš", "Ravi", "Maya", "Søren", "Aylin"]
FAMILIES = ["Alvarado", "Müller", "Nakamura", "O'Brien", "Castañeda", "Dvořák", "Haddad", "Kim",
            "Rivas", "Lindqvist", "Öztürk", "Peña"]
COUNTRIES = ["SLV", "USA", "GTM", "DEU", "ESP", "CHE", "HND", "JPN"]
STREETS = ["Calle El Mirador 14", "Av. La Revolución 222", "12 Harbour Road, Flat \"B\"", "Bahnhofstraße 9"]
CUSTOMER_TYPES = ["Individual", "Individual", "Individual", "PrivateCompany", "Bank", "GovernmentEntity",
                  "FinancialInstitution", "ForeignAgencyOrSubsidiary", "NonDomiciledCompany"]

FACILITY_ACCOUNTS = [
    "disbursed_defaulted_account_id", "disbursed_receivable_due_account_id",
    "disbursed_receivable_not_yet_due_account_id", "disbursed_receivable_overdue_account_id",
    "facility_account_id", "fee_income_account_id", "interest_defaulted_account_id",
    "interest_income_account_id", "interest_receivable_due_account_id",
    "interest_receivable_not_yet_due_account_id", "interest_receivable_overdue_account_id",
    "payment_holding_account_id", "proceeds_from_liquidation_account_id",
    "uncovered_outstanding_account_id"]


def uuids(w, names):
    """An object of account ids."""
    return {name: w.uuid() for name in names}


def encrypted(w):
    """Ciphertext, nonce and key as the core stores a secret: arrays of bytes."""
    return {"nonce": [w.rng.randrange(256) for _ in range(12)],
            "key_id": "key-%d" % w.rng.randrange(1, 4),
            "ciphertext": [w.rng.randrange(256) for _ in range(w.rng.randrange(24, 64))]}


def days(n):
    return {"type": "days", "value": n}


def terms(w, months, multiple, rate, liquidation):
    """Term values; decimals are JSON strings, in some rows numbers."""
    t = {
        "duration": {"type": "months", "value": months},
        "annual_rate": str(rate) if w.rng.random() < 0.9 else rate,
        "initial_cvl": {"Finite": "140"},
        "accrual_interval": {"type": "end_of_day"},
        "liquidation_cvl": {"Finite": "105"},
        "margin_call_cvl": {"Finite": "125"},
        "disbursal_policy": "MultipleDisbursal" if multiple else "SingleDisbursal",
        "one_time_fee_rate": "0.01" if w.rng.random() < 0.5 else "1.50",
        "accrual_cycle_interval": {"type": "end_of_month"},
        "interest_due_duration_from_accrual": days(0),
        "obligation_overdue_duration_from_due": days(50),
    }
    w.optional(t, "obligation_liquidation_duration_from_due", days(60) if liquidation else None)
    return t


def period(w, start, end):
    return {"start": w.timestamp(start), "end": w.timestamp(end), "interval": {"type": "end_of_month"}}


def cycle_end(start, maturity):
    """A cycle lasts to the end of the month or to maturity, whichever is first."""
    return min(month_start(start, 1), maturity)


def code(text):
    return {"sections": [{"code": part} for part in text.split(".")]}


def person(w):
    """A name, a mail address, a telegram handle; addresses and handles are unique in the core."""
    first, last = w.rng.choice(PEOPLE), w.rng.choice(FAMILIES)
    number = "%08x" % w.rng.getrandbits(32)
    return first, last, f"{first.lower()}.{number}@example.com", f"@{last.lower().replace(chr(39), '')}{number}"
