-- Which guarantee secures which loan: the loan's share of the facility's bitcoin. The value is the part of the
-- loan, in percent, that it covers: 100 at most; 1 for a loan of nothing.
select
	disbursal_id,
	num_referencia,
	cod_cartera,
	cod_activo,
	num_referencia as identificacion_garantia,
	'PC' as tipo_garantia,
	case when monto_referencia > 0
		then least(collateral_usd * 100 / monto_referencia, 100)
		else 1
	end::numeric(19,2) as valor_garantia_proporcional
from {{ ref('int_nrp_92_02_referencia') }}
