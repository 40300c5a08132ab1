-- Accounts of account sets. Transitive: a member of a set below, which the ledger lists here again.
select
	account_set_id,
	member_account_id,
	transitive,
	created_at
from {{ source('raw', 'cala_account_set_member_accounts') }}
