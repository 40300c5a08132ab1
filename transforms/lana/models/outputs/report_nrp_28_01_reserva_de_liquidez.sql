-- The liquidity reserve by line. No report job writes it: it is here for whoever asks the warehouse.
{{ config(materialized='table') }}
select
	line_no,
	title,
	sum_usd,
	less_usd,
	coefficient,
	reserve_usd
from {{ ref('int_nrp_28_01_reserva_de_liquidez') }}
