-- Versions of the balances of ledger accounts, in the order of the entries. Amounts are dollars or bitcoin.
select
	journal_id,
	account_id,
	currency::text as currency,
	version,
	(values #>> '{settled,dr_balance}')::numeric as settled_debit,
	(values #>> '{settled,cr_balance}')::numeric as settled_credit,
	recorded_at
from {{ source('raw', 'cala_balance_history') }}
