-- Projected cash flow of the loans by month of this year.
{{ config(materialized='table') }}
select
	id_codigo_cuentaproy,
	nom_cuentaproy,
	enero,
	febrero,
	marzo,
	abril,
	mayo,
	junio,
	julio,
	agosto,
	septiembre,
	octubre,
	noviembre,
	diciembre
from {{ ref('int_nrp_91_08_balance_proyectado') }}
