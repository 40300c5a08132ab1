-- Approved facilities as they are, with what was paid out, earned and paid back.
{{ config(materialized='table') }}
with collateral_changes as (
	select distinct on (credit_facility_id)
		credit_facility_id,
		modified_at,
		collateral
	from {{ ref('stg_core_credit_facility_events_rollup') }}
	where event_type = 'collateralization_state_changed'
	order by credit_facility_id, version desc
),
disbursed as (
	select credit_facility_id, sum(amount_usd) as amount_usd, count(*)::integer as disbursals
	from {{ ref('int_core_disbursal_events_rollup') }}
	where is_settled
	group by credit_facility_id
),
earned as (
	select credit_facility_id, sum(posted_total_interest_usd) as amount_usd
	from {{ ref('int_core_interest_accrual_cycle_events_rollup') }}
	where is_posted
	group by credit_facility_id
),
paid as (
	select
		credit_facility_id,
		sum(amount_usd) filter (where obligation_type = 'Interest') as interest_usd,
		sum(amount_usd) filter (where obligation_type = 'Disbursal') as principal_usd,
		max(payment_allocation_created_at) filter (where obligation_type = 'Interest') as last_interest_payment_at,
		max(payment_allocation_created_at) filter (where obligation_type = 'Disbursal') as last_principal_payment_at
	from {{ ref('int_core_payment_allocation_events_rollup') }}
	group by credit_facility_id
)
select
	f.*,
	c.modified_at as last_collateral_change_at,
	c.collateral as last_collateral_change_sats,
	coalesce(d.amount_usd, 0)::numeric(19,2) as total_disbursed_usd,
	coalesce(d.disbursals, 0) as number_disbursals,
	coalesce(e.amount_usd, 0)::numeric(19,2) as total_interest_incurred_usd,
	coalesce(p.interest_usd, 0)::numeric(19,2) as total_interest_paid_usd,
	coalesce(p.principal_usd, 0)::numeric(19,2) as total_principal_paid_usd,
	p.last_interest_payment_at,
	p.last_principal_payment_at,
	f.credit_facility_maturity_at < r.run_day as matured
from {{ ref('int_core_credit_facility_events_rollup') }} f
cross join {{ ref('int_run_day') }} r
left join collateral_changes c using (credit_facility_id)
left join disbursed d using (credit_facility_id)
left join earned e using (credit_facility_id)
left join paid p using (credit_facility_id)
where f.approved
