-- What the loans are projected to bring in each month of the run's year; always one row.
select
	{{ var('nrp_91_projected_account_code') }} as id_codigo_cuentaproy,
	{{ var('nrp_91_projected_account_name') }} as nom_cuentaproy,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 1), 0)::numeric(19,2) as enero,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 2), 0)::numeric(19,2) as febrero,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 3), 0)::numeric(19,2) as marzo,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 4), 0)::numeric(19,2) as abril,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 5), 0)::numeric(19,2) as mayo,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 6), 0)::numeric(19,2) as junio,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 7), 0)::numeric(19,2) as julio,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 8), 0)::numeric(19,2) as agosto,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 9), 0)::numeric(19,2) as septiembre,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 10), 0)::numeric(19,2) as octubre,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 11), 0)::numeric(19,2) as noviembre,
	coalesce(sum(c.amount_usd) filter (where extract(month from c.flow_date) = 12), 0)::numeric(19,2) as diciembre
from {{ ref('int_run_day') }} r
left join {{ ref('int_approved_credit_facility_loan_cash_flows') }} c
	on extract(year from c.flow_date) = extract(year from r.run_day)
