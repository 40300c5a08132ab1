-- What each loan is projected to bring: interest by month (or day) at actual/360, and its principal at the end.
with loans as (
	select
		l.*,
		case l.accrual_cycle_interval when 'end_of_day' then interval '1 day' else interval '1 month' end as step,
		case l.accrual_cycle_interval
			when 'end_of_day' then l.start_date
			else date_trunc('month', l.start_date::timestamp)::date
		end as first_step
	from {{ ref('int_approved_credit_facility_loans') }} l
	where l.end_date >= l.start_date
),
periods as (
	select
		l.disbursal_id,
		l.disbursed_usd,
		l.annual_rate,
		greatest(s.at::date, l.start_date) as period_start,
		least((s.at + l.step - interval '1 day')::date, l.end_date) as period_end
	from loans l
	cross join lateral generate_series(l.first_step::timestamp, l.end_date::timestamp, l.step) as s(at)
)
select
	disbursal_id,
	'interest' as flow_type,
	period_start,
	period_end,
	period_end as flow_date,
	(period_end - period_start + 1)::integer as days,
	(disbursed_usd * annual_rate * (period_end - period_start + 1) / 36000)::numeric(19,2) as amount_usd
from periods
union all
select
	disbursal_id,
	'principal',
	start_date,
	end_date,
	end_date,
	(end_date - start_date + 1)::integer,
	disbursed_usd
from loans
