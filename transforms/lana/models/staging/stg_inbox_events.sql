-- Calls of the identity provider. The external user is the prospect, whose id becomes the customer's.
select
	id as inbox_event_id,
	payload ->> 'type' as callback_type,
	payload ->> 'externalUserId' as external_user_id,
	status,
	recorded_at,
	processed_at
from {{ source('raw', 'inbox_events') }}
