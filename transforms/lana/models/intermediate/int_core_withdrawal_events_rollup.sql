-- Withdrawals, as they are.
select
	withdrawal_id,
	version,
	event_type,
	created_at as withdrawal_created_at,
	modified_at as withdrawal_modified_at,
	deposit_account_id,
	(amount * 0.01)::numeric(19,2) as amount_usd,
	approved,
	is_approval_process_concluded,
	is_confirmed,
	is_cancelled,
	public_id,
	reference,
	status
from {{ ref('stg_core_withdrawal_events_rollup_latest') }}
