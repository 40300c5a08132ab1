-- Facilities that still run: neither matured nor completed.
select *
from {{ ref('int_approved_credit_facilities') }}
where not is_matured and not is_completed
