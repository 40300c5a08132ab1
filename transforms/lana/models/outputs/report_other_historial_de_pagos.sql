-- Every payment and what it paid.
{{ config(materialized='table') }}
select
	payment_id,
	credit_facility_id,
	customer_id,
	payment_created_at,
	effective,
	amount_usd,
	interest_usd,
	disbursal_usd,
	unallocated_usd,
	number_allocations,
	obligation_type
from {{ ref('int_payment_history') }}
