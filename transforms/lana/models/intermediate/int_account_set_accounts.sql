-- Every set with every account at any depth, once: what a set's balance is the sum of.
{{ config(materialized='table') }}
select distinct
	d.account_set_id,
	m.member_account_id as account_id
from {{ ref('int_account_set_descendants') }} d
join {{ ref('stg_account_set_member_accounts') }} m
	on m.account_set_id = d.descendant_set_id and not m.transitive
