-- Charts of accounts, the latest version of each: names and types only.
select
	id as chart_id,
	version,
	created_at,
	modified_at,
	event_type,
	account_set_id,
	base_config,
	name::text as name,
	reference::text as reference,
	closed_as_of::date as closed_as_of,
	posted_as_of::date as posted_as_of,
	_committed_at as committed_at
from {{ source('raw', 'core_chart_events_rollup_latest') }}
