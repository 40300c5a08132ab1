-- The nodes of the newest chart of accounts. A node that is added later hides nothing that was there.
{{ config(materialized='table') }}
with newest_chart as (
	select chart_id
	from {{ ref('stg_core_chart_events_rollup_latest') }}
	order by created_at desc, chart_id
	limit 1
),
nodes as (
	select
		n.chart_node_id,
		(n.event ->> 'chart_id')::uuid as chart_id,
		n.event #> '{spec,code,sections}' as sections,
		n.event #> '{spec,parent,sections}' as parent_sections,
		n.event #>> '{spec,name,name}' as node_name,
		n.event #>> '{spec,normal_balance_type}' as normal_balance_type,
		(n.event ->> 'ledger_account_set_id')::uuid as ledger_account_set_id,
		n.recorded_at
	from {{ ref('stg_core_chart_node_events') }} n
	where n.event_type = 'initialized'
)
select
	n.chart_node_id,
	n.chart_id,
	codes.code as node_code,
	codes.dotted as node_code_dotted,
	codes.spaced as node_code_spaced,
	parents.dotted as parent_code_dotted,
	n.node_name,
	n.normal_balance_type,
	n.ledger_account_set_id,
	n.recorded_at as node_created_at
from nodes n
join newest_chart c using (chart_id)
cross join lateral (
	select
		string_agg(s.section ->> 'code', '' order by s.place) as code,
		string_agg(s.section ->> 'code', '.' order by s.place) as dotted,
		string_agg(s.section ->> 'code', ' ' order by s.place) as spaced
	from jsonb_array_elements(n.sections) with ordinality as s(section, place)
) codes
cross join lateral (
	select string_agg(s.section ->> 'code', '.' order by s.place) as dotted
	from jsonb_array_elements(
		case when jsonb_typeof(n.parent_sections) = 'array' then n.parent_sections else '[]' end
	) with ordinality as s(section, place)
) parents
