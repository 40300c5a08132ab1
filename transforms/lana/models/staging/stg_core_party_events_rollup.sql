-- Parties: contact data, every version: names and types only.
select
	id as party_id,
	version,
	created_at,
	modified_at,
	event_type,
	customer_type::text as customer_type,
	email::text as email,
	telegram_handle::text as telegram_handle,
	personal_info ->> 'firstName' as first_name,
	personal_info ->> 'lastName' as last_name,
	personal_info ->> 'companyName' as company_name,
	personal_info ->> 'nationality' as nationality,
	personal_info ->> 'address' as address,
	personal_info ->> 'dateOfBirth' as date_of_birth,
	_committed_at as committed_at
from {{ source('raw', 'core_party_events_rollup') }}
