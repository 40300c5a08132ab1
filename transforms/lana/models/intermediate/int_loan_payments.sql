-- What each payment paid of each loan. Principal goes to the loan whose obligation it was allocated to; interest
-- is shared like the cycle that it belongs to. The parts add up to the allocations, to the cent.
{{ config(materialized='table') }}
with allocations as (
	select
		payment_id,
		obligation_id,
		obligation_type,
		amount_usd * 100 as cents,
		sum(amount_usd * 100) over (
			partition by obligation_id
			order by payment_allocation_created_at, payment_allocation_idx, payment_allocation_id
		) as cents_until
	from {{ ref('int_core_payment_allocation_events_rollup') }}
),
parts as (
	select a.payment_id, d.disbursal_id, a.cents as principal_cents, 0 as interest_cents
	from allocations a
	join {{ ref('int_core_disbursal_events_rollup') }} d on d.obligation_id = a.obligation_id
	where a.obligation_type = 'Disbursal'
	union all
	-- Half up at each bound: div(2ab + c, 2c) is ab / c, rounded.
	select
		a.payment_id,
		s.disbursal_id,
		0,
		div(2 * a.cents_until * s.upper_bound + s.weights, 2 * s.weights)
			- div(2 * a.cents_until * s.lower_bound + s.weights, 2 * s.weights)
			- div(2 * (a.cents_until - a.cents) * s.upper_bound + s.weights, 2 * s.weights)
			+ div(2 * (a.cents_until - a.cents) * s.lower_bound + s.weights, 2 * s.weights)
	from allocations a
	join {{ ref('int_loan_interest_shares') }} s on s.obligation_id = a.obligation_id
	where a.obligation_type = 'Interest'
)
select
	x.payment_id,
	x.disbursal_id,
	p.payment_created_at,
	(sum(x.principal_cents) * 0.01)::numeric(19,2) as principal_usd,
	(sum(x.interest_cents) * 0.01)::numeric(19,2) as interest_usd
from parts x
join {{ ref('int_core_payment_events_rollup') }} p using (payment_id)
group by x.payment_id, x.disbursal_id, p.payment_created_at
