-- Short numbers that people use, and what each stands for.
select
	id::text as public_id,
	target_id,
	created_at
from {{ source('raw', 'core_public_ids') }}
