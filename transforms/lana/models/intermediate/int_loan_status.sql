-- Loans, each with its state by the days that it is overdue; one that is no longer reported is paid off.
select
	l.disbursal_id,
	case
		when r.disbursal_id is null then {{ var('loan_status_cancelled') }}::text
		else s.status
	end as status,
	r.dias_mora_k,
	r.dias_mora_i
from {{ ref('int_approved_credit_facility_loans') }} l
left join {{ ref('int_nrp_92_02_referencia') }} r using (disbursal_id)
left join {{ ref('seed_loan_statuses') }} s
	on greatest(r.dias_mora_k, r.dias_mora_i) >= s.from_days
	and (s.to_days is null or greatest(r.dias_mora_k, r.dias_mora_i) <= s.to_days)
