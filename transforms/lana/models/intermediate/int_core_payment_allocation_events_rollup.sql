-- Payment allocations: the part of a payment that an obligation got, as they are.
select
	payment_allocation_id,
	version,
	event_type,
	created_at as payment_allocation_created_at,
	modified_at as payment_allocation_modified_at,
	credit_facility_id,
	payment_id,
	obligation_id,
	obligation_type,
	payment_allocation_idx,
	(amount * 0.01)::numeric(19,2) as amount_usd,
	effective
from {{ ref('stg_core_payment_allocation_events_rollup_latest') }}
