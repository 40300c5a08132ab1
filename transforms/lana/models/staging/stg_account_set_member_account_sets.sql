-- Account sets of account sets, every one of them.
select
	account_set_id,
	member_account_set_id,
	created_at
from {{ source('raw', 'cala_account_set_member_account_sets') }}
