-- What each account holds in each currency: the newest version of its balance.
{{ config(materialized='table') }}
with keys as (
	select distinct journal_id, account_id, currency
	from {{ ref('stg_account_balances') }}
)
select
	b.journal_id,
	b.account_id,
	b.currency,
	b.version,
	b.settled_debit,
	b.settled_credit,
	b.recorded_at
from keys k
cross join lateral (
	select *
	from {{ ref('stg_account_balances') }} b
	where b.journal_id = k.journal_id and b.account_id = k.account_id and b.currency = k.currency
	order by b.version desc
	limit 1
) b
