-- Customers, with their contact data and what the identity provider knows of them.
{{ config(materialized='table') }}
with documents as (
	select
		a.customer_id,
		max(d.document ->> 'number') filter (where d.document ->> 'idDocType' = 'PASSPORT') as passport_number,
		max(d.document ->> 'number') filter (
			where d.document ->> 'idDocType' = 'ID_CARD' and d.document ->> 'country' = 'SLV') as dui_number
	from {{ ref('stg_sumsub_applicants') }} a
	cross join lateral jsonb_array_elements(
		case when jsonb_typeof(a.content #> '{info,idDocs}') = 'array' then a.content #> '{info,idDocs}' else '[]' end
	) as d(document)
	group by a.customer_id
),
known as (
	select
		c.customer_id,
		c.public_id,
		c.customer_type,
		c.status,
		c.customer_created_at,
		p.email,
		nullif(concat_ws(' ', p.first_name, p.last_name), '') as customer_name,
		a.customer_id is not null as has_applicant,
		regexp_split_to_array(upper(trim(a.content #>> '{info,firstName}')), '\s+') as first_names,
		regexp_split_to_array(upper(trim(a.content #>> '{info,lastName}')), '\s+') as last_names,
		(a.content #>> '{info,dob}')::date as date_of_birth,
		a.content #>> '{info,gender}' as gender,
		a.content #>> '{info,country}' as country,
		a.content #>> '{info,nationality}' as nationality,
		a.content #>> '{info,addresses,0,formattedAddress}' as address,
		coalesce(a.content ->> 'phone', a.content #>> '{info,phone}') as phone,
		a.content #>> '{info,tin}' as tax_id,
		d.passport_number,
		d.dui_number
	from {{ ref('int_core_customer_events_rollup') }} c
	left join {{ ref('int_core_party_events_rollup') }} p using (party_id)
	left join {{ ref('stg_sumsub_applicants') }} a on a.customer_id = c.customer_id
	left join documents d on d.customer_id = c.customer_id
)
select
	k.customer_id,
	k.public_id,
	k.customer_type,
	k.status,
	k.customer_created_at,
	k.email,
	k.customer_name,
	k.has_applicant,
	k.first_names,
	k.last_names,
	k.date_of_birth,
	case when k.gender in ('M', 'F') then k.gender end as gender,
	k.country,
	k.nationality,
	r.supervisor_code as country_code,
	n.supervisor_code as nationality_code,
	k.address,
	k.phone,
	k.tax_id,
	k.dui_number,
	k.passport_number
from known k
left join {{ ref('seed_countries') }} r on r.alpha_3 = k.country
left join {{ ref('seed_countries') }} n on n.alpha_3 = k.nationality
