-- The portfolio: every loan with its state, risk and reserve.
{{ config(materialized='table') }}
select
	l.disbursal_id,
	l.credit_facility_id,
	l.customer_id,
	l.credit_facility_public_id,
	l.disbursal_public_id,
	'1' as product_code,
	{{ var('loan_product_name') }}::text as product_name,
	c.public_id as customer_public_id,
	c.customer_name,
	l.start_date,
	l.end_date,
	s.status,
	l.annual_rate as interest_rate,
	l.annual_rate as effective_rate,
	l.disbursed_usd,
	(l.disbursed_usd - l.principal_paid_usd)::numeric(19,2) as principal_balance_usd,
	(l.interest_incurred_usd - l.interest_paid_usd)::numeric(19,2) as interest_balance_usd,
	coalesce(s.dias_mora_k, 0) as principal_days_overdue,
	coalesce(s.dias_mora_i, 0) as interest_days_overdue,
	(greatest(coalesce(s.dias_mora_k, 0), coalesce(s.dias_mora_i, 0)) / 30)::integer as allocations_overdue,
	'Privado' as credit_type,
	n.category,
	'Automática' as assignment_type,
	(100 * n.guarantee_usd / nullif(l.disbursed_usd - l.principal_paid_usd, 0))::numeric(19,2) as guaranteed_percent,
	n.net_risk_usd,
	n.reserve_usd,
	'1141030101' as principal_account,
	'1141039901' as interest_account
from {{ ref('int_approved_credit_facility_loans') }} l
join {{ ref('int_loan_status') }} s using (disbursal_id)
left join {{ ref('int_customers') }} c on c.customer_id = l.customer_id
left join {{ ref('int_net_risk_calculation') }} n on n.disbursal_id = l.disbursal_id
