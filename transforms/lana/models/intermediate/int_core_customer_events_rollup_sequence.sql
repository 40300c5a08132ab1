-- Customers, every version.
select
	customer_id,
	version,
	event_type,
	created_at as customer_created_at,
	modified_at as customer_modified_at,
	customer_type,
	level as kyc_level,
	public_id,
	coalesce(status, 'active') as status,
	party_id,
	conversion_type,
	applicant_id
from {{ ref('stg_core_customer_events_rollup') }}
