-- Payments, every version.
select
	payment_id,
	version,
	event_type,
	created_at as payment_created_at,
	modified_at as payment_modified_at,
	credit_facility_id,
	effective,
	(amount * 0.01)::numeric(19,2) as amount_usd,
	ledger_tx_id
from {{ ref('stg_core_payment_events_rollup') }}
