-- Parties: contact data, as they are.
select
	party_id,
	version,
	event_type,
	created_at as party_created_at,
	modified_at as party_modified_at,
	customer_type,
	email,
	telegram_handle,
	first_name,
	last_name,
	company_name,
	nationality,
	address,
	date_of_birth
from {{ ref('stg_core_party_events_rollup_latest') }}
