-- Account sets: named groups of ledger accounts and of other sets.
select
	id as account_set_id,
	journal_id,
	name::text as set_name,
	created_at
from {{ source('raw', 'cala_account_sets') }}
