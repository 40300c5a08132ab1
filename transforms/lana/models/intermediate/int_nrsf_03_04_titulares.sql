-- Who holds which deposit account.
select
	a.deposit_account_id,
	c.public_id as "NIU",
	a.public_id as "Número de cuenta"
from {{ ref('int_core_deposit_account_events_rollup') }} a
join {{ ref('int_core_customer_events_rollup') }} c using (customer_id)
