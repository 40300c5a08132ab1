-- Interest accrual cycles: a month of a facility, the latest version of each: names and types only.
-- Times of nine digits are cut to microseconds: rounded, the end of a month would be the next one's begin.
select
	id as interest_accrual_cycle_id,
	version,
	created_at,
	modified_at,
	event_type,
	facility_id as credit_facility_id,
	idx,
	amount,
	accrued_at,
	total,
	obligation_id,
	is_interest_accruals_posted,
	effective::date as effective,
	(rtrim(left(period ->> 'start', 26), 'Z') || 'Z')::timestamptz as period_start_at,
	(rtrim(left(period ->> 'end', 26), 'Z') || 'Z')::timestamptz as period_end_at,
	(facility_maturity_date at time zone 'UTC')::date as facility_maturity_date,
	terms,
	_committed_at as committed_at
from {{ source('raw', 'core_interest_accrual_cycle_events_rollup_latest') }}
