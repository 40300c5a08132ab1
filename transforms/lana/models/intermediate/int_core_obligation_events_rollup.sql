-- Obligations: what a customer must pay by a day, as they are; overdue as of the run's day.
with obligations as (
	select
		o.*,
		o.overdue_date is not null and r.run_day >= o.due_date and r.run_day >= o.overdue_date
			and not o.is_completed and not o.is_defaulted_recorded and o.amount > 0 as overdue,
		r.run_day
	from {{ ref('stg_core_obligation_events_rollup_latest') }} o
	cross join {{ ref('int_run_day') }} r
)
select
	obligation_id,
	version,
	event_type,
	created_at as obligation_created_at,
	modified_at as obligation_modified_at,
	credit_facility_id,
	obligation_type,
	reference,
	effective,
	(amount * 0.01)::numeric(19,2) as amount_usd,
	(due_amount * 0.01)::numeric(19,2) as due_amount_usd,
	(overdue_amount * 0.01)::numeric(19,2) as overdue_amount_usd,
	(defaulted_amount * 0.01)::numeric(19,2) as defaulted_amount_usd,
	(payment_allocation_amount * 0.01)::numeric(19,2) as payment_allocation_amount_usd,
	payment_id,
	due_date,
	overdue_date,
	liquidation_date,
	defaulted_date,
	is_due_recorded,
	is_overdue_recorded,
	is_defaulted_recorded,
	is_completed,
	overdue,
	case
		when is_completed or is_defaulted_recorded or amount <= 0 then 0
		else greatest(coalesce(run_day - overdue_date, 0), 0)
	end as overdue_days
from obligations
