-- Credit risk, pledged bitcoin.
{{ config(materialized='table') }}
select
	num_referencia,
	cod_cartera,
	cod_activo,
	identificacion_garantia,
	num_criptomonedas,
	valor_contractual,
	valor_mercado,
	fecha_valuacion_mercado,
	hora_valuacion_mercado,
	tasas_conversion,
	monto_garantizado,
	fecha_otorgamiento
from {{ ref('int_nrp_92_16_garantia_criptomonedas') }}
