-- Withdrawals, every version: names and types only.
select
	id as withdrawal_id,
	version,
	created_at,
	modified_at,
	event_type,
	deposit_account_id,
	amount,
	approval_process_id,
	approved,
	is_approval_process_concluded,
	is_cancelled,
	is_confirmed,
	public_id::text as public_id,
	reference::text as reference,
	status::text as status,
	_committed_at as committed_at
from {{ source('raw', 'core_withdrawal_events_rollup') }}
