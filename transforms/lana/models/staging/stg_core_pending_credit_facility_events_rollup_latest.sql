-- Pending credit facilities: approved, waiting for collateral, the latest version of each: names and types only.
select
	id as pending_credit_facility_id,
	version,
	created_at,
	modified_at,
	event_type,
	customer_id,
	credit_facility_proposal_id,
	approval_process_id,
	collateral_id,
	disbursal_credit_account_id,
	amount,
	collateral,
	price,
	is_completed,
	terms,
	customer_type::text as customer_type,
	collateralization_state::text as collateralization_state,
	(collateralization_ratio ->> 'Finite')::numeric as collateralization_ratio,
	_committed_at as committed_at
from {{ source('raw', 'core_pending_credit_facility_events_rollup_latest') }}
