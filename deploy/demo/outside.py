#!/usr/bin/python3
"""The world outside of the core, for the demo and the tests: the identity provider's answers and market prices.

  outside.py --warehouse CONNINFO [--days 2]

Asks the warehouse, as the real fetchers do, for whom the provider called (raw.inbox_events), and writes an answer
for each that has none yet into ext.kyc_applicants; and a price per ten minutes of the last days up to the bank's
newest event into ext.market_prices. The tables are those of transforms/lana/ext.sql. Again is harmless.
"""
import argparse
import json
import os
import random
import sys
from datetime import timedelta

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import psycopg  # noqa: E402

from lana import shapes  # noqa: E402
from lana.world import EPOCH, btc_price  # noqa: E402

DOCUMENTS = [("PASSPORT", "A%08d"), ("ID_CARD", "%09d")]


def applicant(external_id):
    """What the provider knows of one person; the same for the same id."""
    rng = random.Random(f"applicant {external_id}")
    country = "SLV" if rng.random() < 0.6 else rng.choice(shapes.COUNTRIES)
    first = " ".join(rng.choice(shapes.PEOPLE) for _ in range(rng.choice([1, 2, 2, 3])))
    last = " ".join(rng.choice(shapes.FAMILIES) for _ in range(rng.choice([1, 2, 2])))
    papers = [{"idDocType": kind, "country": country, "number": number % rng.randrange(10 ** 8)}
              for kind, number in DOCUMENTS if rng.random() < 0.7]
    info = {"firstName": first, "lastName": last, "country": country, "nationality": country,
            "dob": "%d-%02d-%02d" % (rng.randrange(1950, 2004), rng.randrange(1, 13), rng.randrange(1, 29)),
            "gender": rng.choice(["M", "F", None]), "idDocs": papers}
    if rng.random() < 0.5:
        info["tin"] = "%014d" % rng.randrange(10 ** 14)
    if rng.random() < 0.8:
        info["addresses"] = [{"formattedAddress": rng.choice(shapes.STREETS), "country": country}]
    return {"id": "%024x" % rng.getrandbits(96), "externalUserId": external_id, "info": info,
            "phone": "+503 %08d" % rng.randrange(10 ** 8), "review": {"reviewStatus": "completed"}}


def answer(conn, when=None):
    """An applicant for everybody that the provider called about, asked for then, or when it called; how many are new."""
    asked = conn.execute(
        "select i.payload ->> 'externalUserId', max(i.recorded_at) from raw.inbox_events i where not exists "
        "(select from ext.kyc_applicants a where a.customer_id = (i.payload ->> 'externalUserId')::uuid) "
        "group by 1 order by 1").fetchall()
    with conn.cursor().copy("copy ext.kyc_applicants (customer_id, recorded_at, content) from stdin") as copy:
        for external_id, at in asked:
            copy.write_row((external_id, when or at, json.dumps(applicant(external_id), ensure_ascii=False)))
    return len(asked)


def prices(conn, days, until=None, shift=0):
    """A price every ten minutes of so many days, as the simulated bank (shift: that of its world) saw it; until its
    newest event."""
    newest, = (until,) if until else conn.execute("select max(recorded_at) from raw.inbox_events").fetchone()
    if newest is None:
        return 0
    at = newest.replace(minute=newest.minute // 10 * 10, second=0, microsecond=0)
    rows = []
    for n in range(days * 144):
        when = at - timedelta(minutes=10 * n)
        us = int((when.replace(tzinfo=None) - EPOCH).total_seconds() * 1_000_000)
        rows.append((when, "%d.%02d" % divmod(btc_price(us, shift), 100)))
    with conn.cursor() as cur:
        cur.executemany("insert into ext.market_prices (requested_at, last_price) values (%s, %s) "
                        "on conflict do nothing", rows)
        return len(rows)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--warehouse", required=True, metavar="CONNINFO")
    p.add_argument("--days", type=int, default=2, help="of prices")
    a = p.parse_args()
    with psycopg.connect(a.warehouse, options="-c timezone=UTC") as conn:
        print(json.dumps({"applicants": answer(conn), "prices": prices(conn, a.days)}))


if __name__ == "__main__":
    main()
