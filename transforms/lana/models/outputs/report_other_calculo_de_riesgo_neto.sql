-- Net risk and reserve of every running loan.
{{ config(materialized='table') }}
select
	credit_facility_public_id as "Línea de crédito",
	disbursal_public_id as "Número de desembolso",
	principal_balance_usd as "Saldo de Capital o Principal",
	interest_usd as "Intereses",
	total_debt_usd as "Deuda Total",
	guarantee_usd as "Monto de Garantía",
	category_percent as "% según categoria de riesgo",
	category as "Categoria B",
	net_risk_usd as "Riesgo Neto",
	reserve_percent as "% de Reserva",
	reserve_usd as "Reserva"
from {{ ref('int_net_risk_calculation') }}
