-- Deposits, the latest version of each: names and types only.
select
	id as deposit_id,
	version,
	created_at,
	modified_at,
	event_type,
	deposit_account_id,
	amount,
	public_id::text as public_id,
	reference::text as reference,
	status::text as status,
	_committed_at as committed_at
from {{ source('raw', 'core_deposit_events_rollup_latest') }}
