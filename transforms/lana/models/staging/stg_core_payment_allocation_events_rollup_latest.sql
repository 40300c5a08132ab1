-- Payment allocations: the part of a payment that an obligation got, the latest version of each: names and types only.
select
	id as payment_allocation_id,
	version,
	created_at,
	modified_at,
	event_type,
	beneficiary_id as credit_facility_id,
	amount,
	payment_id,
	obligation_id,
	payment_allocation_idx,
	effective::date as effective,
	obligation_type::text as obligation_type,
	_committed_at as committed_at
from {{ source('raw', 'core_payment_allocation_events_rollup_latest') }}
