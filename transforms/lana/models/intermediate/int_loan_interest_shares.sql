-- How the interest of a facility's cycle is shared by its loans (settled disbursals): by amount times days
-- within the cycle. Shares are bounds on a scale from 0 to `weights`: a loan has what lies between its two,
-- so that cents rounded at the bounds always add up to the whole. No payment is needed for a share.
{{ config(materialized='table') }}
with loans as (
	select disbursal_id, credit_facility_id, effective as start_date, amount_usd * 100 as cents
	from {{ ref('int_core_disbursal_events_rollup') }}
	where is_settled
),
weighed as (
	select
		o.obligation_id,
		o.amount_usd * 100 as interest_cents,
		l.disbursal_id,
		l.start_date,
		l.cents,
		l.cents * greatest(0, (y.period_end_at at time zone 'UTC')::date
			- greatest(l.start_date, (y.period_start_at at time zone 'UTC')::date) + 1) as weight
	from {{ ref('int_core_obligation_events_rollup') }} o
	join loans l using (credit_facility_id)
	left join {{ ref('int_core_interest_accrual_cycle_events_rollup') }} y on y.posted_obligation_id = o.obligation_id
	where o.obligation_type = 'Interest'
),
-- Without a cycle, or when no loan ran within it, by amount alone.
settled as (
	select
		obligation_id, interest_cents, disbursal_id, start_date,
		case when sum(weight) over w > 0 then weight else cents end as weight
	from weighed
	window w as (partition by obligation_id)
)
select
	obligation_id,
	disbursal_id,
	trunc(interest_cents) as interest_cents,
	trunc(sum(weight) over (partition by obligation_id order by start_date, disbursal_id) - weight) as lower_bound,
	trunc(sum(weight) over (partition by obligation_id order by start_date, disbursal_id)) as upper_bound,
	trunc(sum(weight) over (partition by obligation_id)) as weights
from settled
