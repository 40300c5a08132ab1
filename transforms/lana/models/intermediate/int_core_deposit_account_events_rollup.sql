-- Deposit accounts, as they are.
select
	deposit_account_id,
	version,
	event_type,
	created_at as deposit_account_created_at,
	modified_at as deposit_account_modified_at,
	account_holder_id as customer_id,
	public_id,
	status,
	ledger_account_id,
	frozen_ledger_account_id
from {{ ref('stg_core_deposit_account_events_rollup_latest') }}
