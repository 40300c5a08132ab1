-- Deposits, as they are.
select
	deposit_id,
	version,
	event_type,
	created_at as deposit_created_at,
	modified_at as deposit_modified_at,
	deposit_account_id,
	(amount * 0.01)::numeric(19,2) as amount_usd,
	public_id,
	reference,
	status
from {{ ref('stg_core_deposit_events_rollup_latest') }}
