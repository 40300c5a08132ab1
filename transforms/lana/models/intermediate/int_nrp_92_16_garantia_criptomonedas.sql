-- The bitcoin that secures each loan, at the price of its first day and at the latest that the core has used.
select
	disbursal_id,
	num_referencia,
	cod_cartera,
	cod_activo,
	num_referencia as identificacion_garantia,
	collateral_btc as num_criptomonedas,
	(collateral_btc * initial_price_usd)::numeric(19,2) as valor_contractual,
	collateral_usd as valor_mercado,
	(credit_facility_modified_at at time zone 'UTC')::date as fecha_valuacion_mercado,
	to_char(credit_facility_modified_at at time zone 'UTC', 'HH24:MI:SS') as hora_valuacion_mercado,
	latest_price_usd as tasas_conversion,
	collateral_usd as monto_garantizado,
	(credit_facility_modified_at at time zone 'UTC')::date as fecha_otorgamiento
from {{ ref('int_nrp_92_02_referencia') }}
