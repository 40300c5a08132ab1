-- Every set with every set at or below it, by the longest way down. A set that holds itself ends the descent.
{{ config(materialized='table') }}
with recursive descent as (
	select
		account_set_id,
		account_set_id as descendant_set_id,
		array[account_set_id] as set_hierarchy
	from {{ ref('stg_account_sets') }}
	union all
	select
		d.account_set_id,
		m.member_account_set_id,
		d.set_hierarchy || m.member_account_set_id
	from descent d
	join {{ ref('stg_account_set_member_account_sets') }} m on m.account_set_id = d.descendant_set_id
	where m.member_account_set_id <> all (d.set_hierarchy)
)
select distinct on (account_set_id, descendant_set_id)
	account_set_id,
	descendant_set_id,
	set_hierarchy
from descent
order by account_set_id, descendant_set_id, cardinality(set_hierarchy) desc, set_hierarchy
