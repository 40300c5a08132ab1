-- Payments, with what their allocations paid of interest and of principal.
with allocated as (
	select
		payment_id,
		count(*)::integer as number_allocations,
		sum(amount_usd) filter (where obligation_type = 'Interest') as interest_usd,
		sum(amount_usd) filter (where obligation_type = 'Disbursal') as disbursal_usd,
		array_agg(distinct obligation_type order by obligation_type) as obligation_type
	from {{ ref('int_core_payment_allocation_events_rollup') }}
	group by payment_id
)
select
	p.payment_id,
	p.credit_facility_id,
	p.payment_created_at,
	p.effective,
	p.amount_usd,
	coalesce(a.interest_usd, 0)::numeric(19,2) as interest_usd,
	coalesce(a.disbursal_usd, 0)::numeric(19,2) as disbursal_usd,
	(p.amount_usd - coalesce(a.interest_usd, 0) - coalesce(a.disbursal_usd, 0))::numeric(19,2) as unallocated_usd,
	coalesce(a.number_allocations, 0) as number_allocations,
	coalesce(a.obligation_type, '{}') as obligation_type
from {{ ref('int_core_payment_events_rollup') }} p
left join allocated a using (payment_id)
