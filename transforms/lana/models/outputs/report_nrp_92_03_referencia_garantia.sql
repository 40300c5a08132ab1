-- Credit risk, which guarantee secures which loan.
{{ config(materialized='table') }}
select
	num_referencia,
	cod_cartera,
	cod_activo,
	identificacion_garantia,
	tipo_garantia,
	valor_garantia_proporcional
from {{ ref('int_nrp_92_03_referencia_garantia') }}
