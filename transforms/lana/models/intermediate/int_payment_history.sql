-- Every payment with its customer.
select
	p.payment_id,
	p.credit_facility_id,
	f.customer_id,
	p.payment_created_at,
	p.effective,
	p.amount_usd,
	p.interest_usd,
	p.disbursal_usd,
	p.unallocated_usd,
	p.number_allocations,
	p.obligation_type
from {{ ref('int_payment_events') }} p
left join {{ ref('int_core_credit_facility_events_rollup') }} f using (credit_facility_id)
