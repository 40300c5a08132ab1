-- Disbursals: parts of a facility that are paid out, every version: names and types only.
select
	id as disbursal_id,
	version,
	created_at,
	modified_at,
	event_type,
	facility_id as credit_facility_id,
	approval_process_id,
	obligation_id,
	disbursal_credit_account_id,
	amount,
	approved,
	is_approval_process_concluded,
	is_settled,
	is_cancelled,
	effective::date as effective,
	(due_date at time zone 'UTC')::date as due_date,
	(overdue_date at time zone 'UTC')::date as overdue_date,
	(liquidation_date at time zone 'UTC')::date as liquidation_date,
	public_id::text as public_id,
	_committed_at as committed_at
from {{ source('raw', 'core_disbursal_events_rollup') }}
