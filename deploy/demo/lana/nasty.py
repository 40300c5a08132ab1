"""Payloads that are unusual but legal: the core's rollup triggers accept every one of them.

Level 1 stays within the payload's contract: optional keys missing or null, unicode and escapes, large
numbers, odd spellings of numbers, booleans, ids and times that PostgreSQL's input functions take, odd
JSON in jsonb columns, duplicates in lists. Level 2 breaks the contract where the triggers do not mind:
required keys null or missing, text columns given numbers or objects, NULL items of lists, time zone
names, keys that nobody knows.

Numbers that Python cannot spell (1.50, 1e3) are written through a marker, see `encode`.
"""
import json
import re
from decimal import Decimal

OPTIONAL = {
    ("credit_facility", "initialized"): ["structuring_fee_tx_id"],
    ("credit_facility", "interest_accrual_cycle_concluded"): ["obligation_id"],
    ("collateral", "initialized"): ["custody_wallet_id"],
    ("deposit_account", "initialized"): ["activity"],
    ("disbursal", "initialized"): ["liquidation_date", "overdue_date"],
    ("interest_accrual_cycle", "interest_accruals_posted"): ["obligation_id"],
    ("obligation", "initialized"): ["defaulted_date", "liquidation_date", "overdue_date"],
    ("domain_config", "initialized"): ["default_value"],
    ("report_run", "initialized"): ["requested_as_of_date", "requested_report", "start_time"],
    ("report_run", "state_updated"): ["requested_as_of_date", "requested_report", "start_time"],
}
BOOLS = {"approved", "encrypted"}
INTS = {"idx", "interest_accrual_cycle_idx", "payment_allocation_idx", "receive_index"}
TIMES = {"accrued_at", "activated_at", "closed_at", "month_closed_at", "changed_at", "start_time", "maturity_date",
         "due_date", "overdue_date", "liquidation_date", "defaulted_date", "facility_maturity_date"}
TEXT_IDS = {"public_id", "external_id", "applicant_id", "external_wallet_id", "storage_identifier"}
ARRAYS = {"permission_set_ids"}
BIGINTS = {"amount", "abs_diff", "collateral_amount", "collateral", "price", "trigger_price", "new_balance", "total",
           "initially_estimated_to_liquidate", "initially_expected_to_receive", "due_amount", "overdue_amount",
           "defaulted_amount", "payment_allocation_amount"}

MARK = "\x01"


def raw(text):
    """A JSON number spelled as `text`."""
    return MARK + text + MARK


def encode(payload):
    """The payload as JSON text, marked numbers spelled as asked."""
    return re.sub('"\\\\u0001([^"\\\\]*)\\\\u0001"', r"\1", json.dumps(payload, ensure_ascii=False))


def canonical(payload):
    """The payload as jsonb prints it: keys by length, then bytes; numbers without exponent."""
    return re.sub('"\\\\u0001([^"\\\\]*)\\\\u0001"', lambda m: plain_number(m[1]),
                  json.dumps(in_order(payload), ensure_ascii=False))


def plain_number(text):
    number = format(Decimal(text), "f")
    return number if Decimal(text) else number.lstrip("-")


def in_order(value):
    if isinstance(value, dict):
        keys = sorted(value, key=lambda k: (len(k.encode()), k.encode()))
        return {k: in_order(value[k]) for k in keys}
    return [in_order(v) for v in value] if isinstance(value, list) else value


BIGINT_VALUES = [0, -1, 9223372036854775807, -9223372036854775808, " 7 ", "12", "+5", "-0", "0012",
                 raw("1e3"), raw("12e2"), "\t42\n", "9223372036854775807", raw("-0"), 2**53 + 1]
INT_VALUES = [0, -1, 2147483647, -2147483648, "3", " 3 ", raw("1e3"), "+04"]
BOOL_VALUES = ["t", "f", "true", "FALSE", "yes", "no", "on", "off", "1", "0", 1, 0, " T ", "tr", "of", "y", "n"]
TIME_VALUES = [
    "2024-03-01", "2024-03-01 10:00", "2024-03-01T10:00:00", "2024-03-01 10:00:00+05:30", "2024-02-29T23:59:59.999Z",
    "2024-03-01T10:00:00.123456789Z", "2024-03-01T10:00:00.9999999Z", "2024-12-31T23:59:60Z", "2024-03-01 24:00:00",
    "20240301T101112Z", "2024-03-01T10:00:00-08", "2024-03-01 10:00:00.5 +0530", "infinity", "-infinity",
    "0044-03-15 12:00:00+00 BC", "0001-01-01", "9999-12-31T23:59:59.999999999Z", "  2024-03-01 10:00:00Z  ",
    "2024-03-01T10:00:00.Z", "epoch", "2024-3-1 1:02:03", "2024-03-01 10:00:00 UTC", "2024-03-01t10:00:00z",
    "1969-12-31T23:59:59.9999996Z", "2024-03-01 10:00:00.0000005Z", "2024-03-01 10:00:00.0000015Z",
    "12024-03-01", "2024-03-01 10:11:12+15:59:59"]
TIME_WILD = [
    "2024-03-01 10:00:00 America/New_York", "2024-07-01 10:00 Europe/Berlin", "2024-03-01 10:00 PST", "March 1, 2024",
    "1 Mar 2024 10:00 pm", "Fri Mar 01 10:00:00 2024 GMT", "3/1/2024", "J2460371", "2024.061", "2024-061",
    "20240301", "2024-03-01 22:00 EST", "294276-12-31 23:59:59.999999+00", "4713-01-01 00:00:00 BC",
    "2024-03-01 12:00 AM", "Mar-01-2024", "2024-03-01 10:00:00 EST5EDT", "2024-03-01 10:00 GMT+3"]
TEXTS = ["", " ", "ünïcödé 日本 🏦", "tab\tnew\nline\\back\"quote'single", "{}", "{\"a\":1}", "null", "NULL", "\\N",
         "a,b;c", "\u0001\u001f\u007f", "\u2028\u2029\ufeff", "x" * 3000, "\\x41", "e\u0301", "\u200f‏אב", "😀" * 30,
         "ends with \\", "%s $1 ? :x", "'; drop table x; --"]
JSONS = [{}, [], "", 0, True, False, [[]], [{}], {"": ""}, {"a": [None, 1, {"b": [raw("1.50"), raw("1e3")]}]},
         raw("1.50"), raw("1e3"), raw("-0"), raw("1e-7"), raw("0.000"), raw("123456789012345678901234567890.5"),
         raw("1e60"), {"b": 1, "a": 2, "aa": 3, "é": 4, "B": 5}, "plain \"text\" ü \\ \t", [1, "1", None, True],
         {"deep": {"deep": {"deep": {"deep": []}}}}, "null", {"k": "\u0001\u2028"}, [raw("1.0"), raw("1.00"), 1]]
# 0x01 is the marker's own sign in Python; as part of a longer text it is an ordinary character.


class Nasty:
    """Changes some payloads as the level says; its dice are the world's, so that a seed gives one stream."""

    def __init__(self, level, share=0.3):
        self.level, self.share = level, share
        self.rng = None

    def __call__(self, kind, type_, body):
        rng = self.rng
        if rng.random() > self.share:
            return
        optional = OPTIONAL.get((kind, type_), ())
        for key in optional:
            dice = rng.random()
            if dice < 0.25:
                body.pop(key, None)
            elif dice < 0.5:
                body[key] = None
        keys = [k for k in body if k not in ("type", "id")]
        for key in rng.sample(keys, min(len(keys), 1 + rng.randrange(3))):
            if body[key] is not None:
                body[key] = self.odd(key, body[key])
            if self.level > 1 and rng.random() < 0.15 and key not in ARRAYS:
                if rng.random() < 0.5:
                    body[key] = None
                else:
                    del body[key]
        if self.level > 1 and rng.random() < 0.05:
            body["nobody_knows"] = rng.choice(JSONS)

    def odd(self, key, value):
        """Another value that the cast of this key's column takes."""
        rng = self.rng
        if key in BIGINTS:
            return rng.choice(BIGINT_VALUES)
        if key in INTS:
            return rng.choice(INT_VALUES)
        if key in BOOLS:
            return rng.choice(BOOL_VALUES)
        if key in TIMES:
            return rng.choice(TIME_VALUES + (TIME_WILD if self.level > 1 else []))
        if key in ARRAYS:
            return self.odd_list(value)
        if key.endswith("_id") and key not in TEXT_IDS:
            return self.odd_uuid(value)
        if isinstance(value, (dict, list)) or key in ("value", "default_value", "custodian_response"):
            return rng.choice(JSONS)
        if self.level > 1 and rng.random() < 0.4:
            return rng.choice(JSONS)
        return rng.choice(TEXTS)

    def odd_uuid(self, value):
        """The same id in one of the spellings that PostgreSQL takes."""
        plain = value.replace("-", "")
        return self.rng.choice([value.upper(), "{" + value + "}", plain, plain.upper(), value,
                                "-".join(plain[n:n + 4] for n in range(0, 32, 4)), "{" + plain + "}"])

    def odd_list(self, value):
        """Empty, with duplicates, reversed; from level 2 on with NULL."""
        choices = [[], value + value, value[::-1], [self.odd_uuid(v) for v in value], value[:1] * 3]
        if self.level > 1:
            choices += [[None], value + [None]]
        return self.rng.choice(choices)
