-- Every set with every member at any depth; set_hierarchy is the longest way of sets down to it.
select distinct on (d.account_set_id, m.member_id)
	d.account_set_id,
	m.member_id,
	m.member_type,
	d.set_hierarchy
from {{ ref('int_account_set_descendants') }} d
join {{ ref('int_account_set_members') }} m on m.account_set_id = d.descendant_set_id
order by d.account_set_id, m.member_id, cardinality(d.set_hierarchy) desc, d.set_hierarchy
