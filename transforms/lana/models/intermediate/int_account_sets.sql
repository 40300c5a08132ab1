-- Account sets.
select
	account_set_id,
	journal_id,
	set_name,
	created_at as account_set_created_at
from {{ ref('stg_account_sets') }}
