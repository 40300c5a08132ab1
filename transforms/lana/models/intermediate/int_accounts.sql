-- Ledger accounts, with the facility that one belongs to and its role there.
with facility_accounts as (
	select
		f.credit_facility_id,
		replace(r.key, '_account_id', '') as account_role,
		r.value::uuid as account_id
	from {{ ref('stg_core_credit_facility_events_rollup_latest') }} f
	cross join lateral jsonb_each_text(f.account_ids) r
)
select
	a.account_id,
	a.name as account_name,
	a.code as account_code,
	a.normal_balance_type,
	f.credit_facility_id,
	f.account_role,
	a.created_at as account_created_at
from {{ ref('stg_accounts') }} a
left join facility_accounts f using (account_id)
