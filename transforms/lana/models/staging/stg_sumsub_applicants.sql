-- The identity provider's newest answer for each customer.
select distinct on (customer_id)
	customer_id,
	content ->> 'id' as applicant_id,
	content,
	recorded_at
from {{ source('ext', 'kyc_applicants') }}
order by customer_id, recorded_at desc
