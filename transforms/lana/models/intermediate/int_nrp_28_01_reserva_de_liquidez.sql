-- The liquidity reserve: per line the dollars below its nodes of the chart, less those of the nodes to be taken off,
-- times the line's coefficient.
select
	l.line_no,
	l.title,
	coalesce(sum(b.balance) filter (where c.role = 'sum'), 0)::numeric(19,2) as sum_usd,
	coalesce(sum(b.balance) filter (where c.role = 'less'), 0)::numeric(19,2) as less_usd,
	l.coefficient,
	(coalesce(sum(case c.role when 'sum' then b.balance when 'less' then -b.balance end), 0) * l.coefficient)
		::numeric(19,2) as reserve_usd
from {{ ref('seed_nrp_28_lines') }} l
left join {{ ref('seed_nrp_28_codes') }} c using (line_no)
left join {{ ref('int_core_chart_of_account_with_balances') }} b on b.node_code = c.node_code and b.currency = 'USD'
group by l.line_no, l.title, l.coefficient
