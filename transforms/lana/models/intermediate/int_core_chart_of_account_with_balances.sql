-- What the accounts below each node of the chart come to: one row per node and currency, and a row
-- of 0 dollars for a node that has none. Currencies are never added up.
{{ config(materialized='table') }}
with sums as (
	select account_set_id, currency, sum(balance) as balance
	from {{ ref('int_account_sets_expanded_with_balances') }}
	where currency is not null
	group by account_set_id, currency
),
currencies as (
	select 'USD' as currency
	union
	select currency from sums
)
select
	n.chart_node_id,
	n.node_code,
	n.node_code_dotted,
	n.node_code_spaced,
	n.node_name,
	n.normal_balance_type,
	c.currency,
	coalesce(s.balance, 0) as balance
from {{ ref('int_core_chart_of_accounts') }} n
cross join currencies c
left join sums s on s.account_set_id = n.ledger_account_set_id and s.currency = c.currency
where c.currency = 'USD' or s.currency is not null
