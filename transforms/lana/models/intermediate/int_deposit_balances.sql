-- Deposit accounts with any movement: deposits less approved withdrawals; what was reverted or cancelled since
-- counts for the times, and not for the balance.
{{ config(materialized='table') }}
with movements as (
	select
		deposit_account_id,
		case when status = 'Confirmed' then amount_usd else 0 end as amount_usd,
		deposit_created_at as moved_at
	from {{ ref('int_core_deposit_events_rollup') }}
	union all
	select
		deposit_account_id,
		case when status in ('PendingConfirmation', 'Confirmed') then -amount_usd else 0 end,
		withdrawal_created_at
	from {{ ref('int_core_withdrawal_events_rollup') }}
	where approved
)
select
	deposit_account_id,
	sum(amount_usd)::numeric(19,2) as balance_usd,
	min(moved_at) as first_movement_at,
	max(moved_at) as last_movement_at
from movements
group by deposit_account_id
