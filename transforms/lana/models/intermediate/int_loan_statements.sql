-- The statement of every loan: its disbursement, then what each payment paid of it; the balance is what is left
-- of the principal behind the line.
{{ config(materialized='table') }}
with lines as (
	select
		disbursal_id,
		null::uuid as payment_id,
		disbursed_at as booked_at,
		'Desembolso' as transaction_type,
		disbursed_usd as principal_usd,
		0::numeric(19,2) as interest_usd,
		disbursed_usd as change_usd
	from {{ ref('int_approved_credit_facility_loans') }}
	union all
	select
		disbursal_id,
		payment_id,
		payment_created_at,
		'Pago',
		principal_usd,
		interest_usd,
		-principal_usd
	from {{ ref('int_loan_payments') }}
	where principal_usd <> 0 or interest_usd <> 0
)
select
	l.disbursal_id,
	(row_number() over w)::integer as line_no,
	x.payment_id,
	l.credit_facility_public_id,
	l.disbursal_public_id,
	l.start_date,
	l.annual_rate as interest_rate,
	c.customer_name,
	l.disbursed_usd,
	l.end_date,
	x.booked_at,
	x.transaction_type,
	x.principal_usd,
	x.interest_usd,
	0::numeric(19,2) as commission_usd,
	0::numeric(19,2) as vat_usd,
	(x.principal_usd + x.interest_usd)::numeric(19,2) as total_transaction_usd,
	(sum(x.change_usd) over w)::numeric(19,2) as principal_balance_usd,
	s.status
from lines x
join {{ ref('int_approved_credit_facility_loans') }} l using (disbursal_id)
join {{ ref('int_loan_status') }} s using (disbursal_id)
left join {{ ref('int_customers') }} c on c.customer_id = l.customer_id
window w as (
	partition by x.disbursal_id order by x.payment_id is not null, x.booked_at, x.payment_id
	rows unbounded preceding
)
