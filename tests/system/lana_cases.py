"""What the simulated bank has too little of: text that is out to break a file, money that is put aside and not
allocated yet, and answers that say nothing.

add_cases() changes payloads of a core that nobody reads yet; answers() are newer answers of the identity provider.
Everything is the same every time.
"""
import json
import uuid

# Formulas, quotes, what ends a field or an element, 4-byte characters, what is long, and what is nothing.
HOSTILE = ["=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1:A9)", "O'Brien \"Bob\"", "a,b;c|d", "<b>&amp;]]></b>",
           "😀𝒳𠮷", "Ångström\u00a0\u200b¡ñ", "tab\tand\nline\r\nends", "x" * 120, " "]
LARGE = 25_000_00
NODES = ["Préstamos <vigentes> & \"vencidos\" 😀", "=1+1 cuentas por cobrar", "ß" + "largo " * 20]


def add_cases(conn):
    """Names of borrowers, references of large transfers, names of accounts."""
    borrowers = conn.execute(
        "select p.id, max(p.sequence) from core_party_events p join core_customers c on c.party_id = p.id "
        "where p.event_type = 'personal_info_updated' and c.id in (select customer_id from core_credit_facilities) "
        "group by p.id order by min(p.recorded_at), p.id limit %s", (len(HOSTILE),)).fetchall()
    for n, ((id_, sequence), text) in enumerate(zip(borrowers, HOSTILE, strict=True)):
        put(conn, "party", id_, sequence, ["personal_info", "firstName" if n % 2 else "lastName"], text)
    deposits = conn.execute(
        "select id from core_deposit_events where event_type = 'initialized' and (event ->> 'amount')::bigint >= %s "
        "order by recorded_at, id limit %s", (LARGE, len(HOSTILE))).fetchall()
    for (id_,), text in zip(deposits, HOSTILE, strict=True):
        put(conn, "deposit", id_, 1, ["reference"], text)
    nodes = conn.execute(
        "select id from core_chart_node_events where event_type = 'initialized' order by recorded_at, id limit %s",
        (len(NODES),)).fetchall()
    for (id_,), text in zip(nodes, NODES, strict=True):
        put(conn, "chart_node", id_, 1, ["spec", "name", "name"], text)
    put_aside(conn)


def put_aside(conn):
    """A payment like the bank's last one, a minute later, of which nothing is allocated."""
    id_ = uuid.UUID(int=0x5eed, version=4)
    facility, at, body = conn.execute("select p.beneficiary_id, e.recorded_at, e.event from core_payment_events e "
                                      "join core_payments p using (id) order by e.recorded_at desc, id limit 1").fetchone()
    conn.execute("insert into core_payments (id, beneficiary_id, created_at) values (%s, %s, %s)", (id_, facility, at))
    conn.execute("insert into core_payment_events (id, sequence, event_type, event, recorded_at) "
                 "values (%s, 1, 'initialized', %s, %s + interval '1 minute')",
                 (id_, json.dumps({**body, "id": str(id_), "amount": 1_234_56}), at))


def put(conn, entity, id_, sequence, path, text):
    done = conn.execute(f"update core_{entity}_events set event = jsonb_set(event, %s, %s) where id = %s and sequence = %s",
                        (path, json.dumps(text), id_, sequence))
    assert done.rowcount == 1


def answers():
    """What the provider says of customers in the order of their numbers, newer than what it said before."""
    def known(first, last, **more):
        return {"info": {"firstName": first, "lastName": last, "country": "SLV", "nationality": "SLV",
                         "dob": "1980-02-29", "gender": "F", "idDocs": [], **more}}

    def paper(kind, number, country="SLV"):
        return {"idDocType": kind, "number": number, "country": country}

    yield from (known(text, f"López {text}", addresses=[{"formattedAddress": text}], tin=f"0614{n:010d}",
                      idDocs=[paper("PASSPORT", f"{'=+-@'[n % 4]}A{n:07d}"), paper("ID_CARD", f"{n:09d}")])
                for n, text in enumerate(HOSTILE[:-1]))
    # Nothing but a name; keys that are null; no list where one belongs; another country's card; two passports.
    yield {"info": {"firstName": "Solo", "lastName": "Nombre"}}
    yield known("Nada", "Nulo", country=None, nationality=None, dob=None, gender=None, idDocs=None, tin=None, addresses=None)
    yield known("Sin", "Lista", idDocs="none", addresses={})
    yield known("Otro", "País", country="DEU", nationality="FRA", gender="X", idDocs=[paper("ID_CARD", "1", "DEU")])
    yield known("Uno Dos Tres Cuatro", "De La O", idDocs=[paper("PASSPORT", "A1"), paper("PASSPORT", "B2")])


def answer(warehouse, at):
    """Adds them to ext.kyc_applicants as of a time that is later than all others."""
    ids = warehouse("select customer_id::text from ext.kyc_applicants a join raw.core_customer_events_rollup_latest c "
                    "on c.id = a.customer_id group by 1, c.public_id order by c.public_id::int")
    for (id_,), content in zip(ids, answers()):
        warehouse("insert into ext.kyc_applicants values (%s, %s, %s)", id_, at, json.dumps(content))
    assert len(ids) > len(list(answers()))
