-- Deposit insurance, who holds which account.
{{ config(materialized='table') }}
select
	"NIU",
	"Número de cuenta"
from {{ ref('int_nrsf_03_04_titulares') }}
