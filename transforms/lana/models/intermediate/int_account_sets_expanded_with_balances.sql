-- Every set with every account below it and its balance, by currency, on the account's normal side;
-- an account that has no balance has one of 0 without currency.
select
	s.account_set_id,
	s.account_id,
	b.currency,
	coalesce(
		case a.normal_balance_type
			when 'credit' then b.settled_credit - b.settled_debit
			else b.settled_debit - b.settled_credit
		end, 0) as balance
from {{ ref('int_account_set_accounts') }} s
join {{ ref('stg_accounts') }} a on a.account_id = s.account_id
left join {{ ref('int_account_balances') }} b on b.account_id = s.account_id
