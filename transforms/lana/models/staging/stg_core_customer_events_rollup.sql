-- Customers, every version: names and types only.
select
	id as customer_id,
	version,
	created_at,
	modified_at,
	event_type,
	customer_type::text as customer_type,
	level::text as level,
	public_id::text as public_id,
	status::text as status,
	party_id,
	conversion ->> 'type' as conversion_type,
	conversion ->> 'applicant_id' as applicant_id,
	_committed_at as committed_at
from {{ source('raw', 'core_customer_events_rollup') }}
