-- Disbursals: parts of a facility that are paid out, every version.
select
	disbursal_id,
	version,
	event_type,
	created_at as disbursal_created_at,
	modified_at as disbursal_modified_at,
	credit_facility_id,
	public_id,
	obligation_id,
	(amount * 0.01)::numeric(19,2) as amount_usd,
	approved,
	is_settled,
	is_cancelled,
	effective,
	due_date,
	overdue_date,
	liquidation_date
from {{ ref('stg_core_disbursal_events_rollup') }}
