-- Net risk and reserve of every loan that is reported as a reference.
select
	disbursal_id,
	credit_facility_id,
	credit_facility_public_id,
	num_referencia as disbursal_public_id,
	saldo_referencia as principal_balance_usd,
	0::numeric(19,2) as interest_usd,
	saldo_referencia as total_debt_usd,
	collateral_usd as guarantee_usd,
	100::numeric(19,2) as category_percent,
	categoria_riesgo_ref as category,
	riesgo_neto as net_risk_usd,
	reserve_percent,
	reserva_referencia as reserve_usd
from {{ ref('int_nrp_92_02_referencia') }}
