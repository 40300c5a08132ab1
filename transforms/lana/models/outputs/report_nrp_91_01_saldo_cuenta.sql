-- Balance of every account of the chart at the end of a day.
{{ config(materialized='table') }}
select
	valor,
	id_codigo_cuenta,
	nom_cuenta,
	chart_node_id
from {{ ref('int_nrp_91_01_saldo_cuenta') }}
