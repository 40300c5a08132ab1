-- What each account set holds itself: accounts and sets, without those of the sets below.
select
	account_set_id,
	member_account_id as member_id,
	'Account' as member_type
from {{ ref('stg_account_set_member_accounts') }}
where not transitive
union all
select
	account_set_id,
	member_account_set_id as member_id,
	'AccountSet' as member_type
from {{ ref('stg_account_set_member_account_sets') }}
