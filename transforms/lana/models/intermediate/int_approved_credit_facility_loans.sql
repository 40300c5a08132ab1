-- Loans: settled disbursals of approved facilities. Collateral is shared by amount.
{{ config(materialized='table') }}
with disbursals as (
	select
		d.disbursal_id,
		d.credit_facility_id,
		d.public_id as disbursal_public_id,
		d.effective as start_date,
		d.disbursal_modified_at as disbursed_at,
		d.amount_usd as disbursed_usd,
		d.amount_usd * 100 as cents,
		sum(d.amount_usd * 100) over (
			partition by d.credit_facility_id order by d.effective, d.disbursal_id) as cents_until
	from {{ ref('int_core_disbursal_events_rollup') }} d
	where d.is_settled
),
earned as (
	select
		disbursal_id,
		sum(div(2 * interest_cents * upper_bound + weights, 2 * weights)
			- div(2 * interest_cents * lower_bound + weights, 2 * weights)) as cents
	from {{ ref('int_loan_interest_shares') }}
	group by disbursal_id
),
paid as (
	select
		disbursal_id,
		sum(principal_usd) as principal_usd,
		sum(interest_usd) as interest_usd,
		max(payment_created_at) filter (where principal_usd > 0) as last_principal_payment_at,
		max(payment_created_at) filter (where interest_usd > 0) as last_interest_payment_at
	from {{ ref('int_loan_payments') }}
	group by disbursal_id
),
first_prices as (
	select credit_facility_id, price
	from {{ ref('stg_core_credit_facility_events_rollup') }}
	where version = 1
)
select
	d.disbursal_id,
	d.disbursal_public_id,
	f.credit_facility_id,
	f.public_id as credit_facility_public_id,
	f.customer_id,
	d.start_date,
	d.disbursed_at,
	f.credit_facility_maturity_at as end_date,
	d.disbursed_usd,
	(d.cents / nullif(f.total_disbursed_usd * 100, 0))::numeric(19,10) as disbursal_ratio,
	(coalesce(e.cents, 0) * 0.01)::numeric(19,2) as interest_incurred_usd,
	coalesce(p.interest_usd, 0)::numeric(19,2) as interest_paid_usd,
	coalesce(p.principal_usd, 0)::numeric(19,2) as principal_paid_usd,
	p.last_interest_payment_at,
	p.last_principal_payment_at,
	((div(2 * f.collateral_amount_sats * d.cents_until + t.cents, 2 * t.cents)
		- div(2 * f.collateral_amount_sats * (d.cents_until - d.cents) + t.cents, 2 * t.cents))
		* 0.00000001)::numeric(19,8) as collateral_btc,
	((div(2 * f.collateral_amount_usd * 100 * d.cents_until + t.cents, 2 * t.cents)
		- div(2 * f.collateral_amount_usd * 100 * (d.cents_until - d.cents) + t.cents, 2 * t.cents))
		* 0.01)::numeric(19,2) as collateral_usd,
	(x.price * 0.01)::numeric(19,2) as initial_price_usd,
	f.price_usd_per_btc as latest_price_usd,
	f.annual_rate,
	f.duration_value,
	f.duration_type,
	f.accrual_cycle_interval,
	f.credit_facility_modified_at,
	f.matured,
	f.is_matured,
	f.is_completed
from disbursals d
join {{ ref('int_approved_credit_facilities') }} f using (credit_facility_id)
cross join lateral (select nullif(f.total_disbursed_usd * 100, 0) as cents) t
left join earned e using (disbursal_id)
left join paid p using (disbursal_id)
left join first_prices x using (credit_facility_id)
