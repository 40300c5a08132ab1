-- Dollars below each node of the chart at the end of the day as_of, 0 where there are none.
select
	as_of_date,
	chart_node_id,
	balance::numeric(19,2) as valor,
	node_code as id_codigo_cuenta,
	upper(translate(node_name, '&<>"', '____')) as nom_cuenta
from {{ ref('int_core_chart_of_account_with_balances_as_of') }}
where currency = 'USD'
