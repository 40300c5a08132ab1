-- The portfolio with the account that each loan leaves and the one that it goes to.
select
	p.*,
	'1141030101' as previous_principal_account,
	'1141030101' as new_principal_account,
	'915000' as new_contingent_account
from {{ ref('int_loan_portfolio') }} p
