-- Events of the nodes of the chart of accounts, as the core wrote them.
select
	id as chart_node_id,
	sequence,
	event_type::text as event_type,
	event,
	recorded_at
from {{ source('raw', 'core_chart_node_events') }}
