-- Deposit accounts, every version: names and types only.
select
	id as deposit_account_id,
	version,
	created_at,
	modified_at,
	event_type,
	account_holder_id,
	public_id::text as public_id,
	status::text as status,
	(account_ids ->> 'deposit_account_id')::uuid as ledger_account_id,
	(account_ids ->> 'frozen_deposit_account_id')::uuid as frozen_ledger_account_id,
	_committed_at as committed_at
from {{ source('raw', 'core_deposit_account_events_rollup') }}
