-- Balances of ledger accounts at the end of each effective day with an entry, in versions: a back-dated entry
-- adds a version to every later day.
select
	journal_id,
	account_id,
	currency::text as currency,
	effective,
	version,
	all_time_version,
	(values #>> '{settled,dr_balance}')::numeric as settled_debit,
	(values #>> '{settled,cr_balance}')::numeric as settled_credit,
	created_at
from {{ source('raw', 'cala_cumulative_effective_balances') }}
