-- Payments, every version: names and types only.
select
	id as payment_id,
	version,
	created_at,
	modified_at,
	event_type,
	beneficiary_id as credit_facility_id,
	amount,
	ledger_tx_id,
	effective::date as effective,
	_committed_at as committed_at
from {{ source('raw', 'core_payment_events_rollup') }}
