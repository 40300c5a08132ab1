-- What each account held in each currency at the end of the day as_of: the newest version of the last effective
-- day up to it. An account without an entry until then is absent.
{{ config(materialized='table') }}
with keys as (
	select distinct journal_id, account_id, currency
	from {{ ref('stg_cumulative_effective_balances') }}
)
select
	{{ var('as_of') }} as as_of_date,
	b.journal_id,
	b.account_id,
	b.currency,
	b.effective,
	b.settled_debit,
	b.settled_credit
from keys k
cross join lateral (
	select *
	from {{ ref('stg_cumulative_effective_balances') }} b
	where b.journal_id = k.journal_id and b.account_id = k.account_id and b.currency = k.currency
		and b.effective <= {{ var('as_of') }}
	order by b.effective desc, b.version desc
	limit 1
) b
