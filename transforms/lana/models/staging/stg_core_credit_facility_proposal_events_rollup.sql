-- Credit facility proposals, every version: names and types only.
select
	id as credit_facility_proposal_id,
	version,
	created_at,
	modified_at,
	event_type,
	customer_id,
	custodian_id,
	approval_process_id,
	disbursal_credit_account_id,
	amount,
	is_approval_process_concluded,
	terms,
	customer_type::text as customer_type,
	status::text as status,
	_committed_at as committed_at
from {{ source('raw', 'core_credit_facility_proposal_events_rollup') }}
