-- Ledger accounts. An account set is an account, too, with its own id.
select
	id as account_id,
	code::text as code,
	name::text as name,
	normal_balance_type,
	created_at
from {{ source('raw', 'cala_accounts') }}
