-- The loan portfolio with state, risk and reserve.
{{ config(materialized='table') }}
select
	credit_facility_public_id as "No Linea de crédito",
	disbursal_public_id as "Número de desembolso",
	product_code as "Cod Producto",
	product_name as "Producto",
	customer_public_id as "Código de Cliente",
	customer_name as "Nombre del cliente",
	start_date as "Fecha de desembolso",
	end_date as "Fecha de vencimiento",
	status as "Estado",
	interest_rate as "Tasa de interés",
	effective_rate as "Tasa efectiva",
	disbursed_usd as "Monto desembolsado",
	principal_balance_usd as "Saldo de Principal",
	interest_balance_usd as "Saldo de Interés",
	principal_days_overdue as "Días mora de capital",
	interest_days_overdue as "Días mora de intereses",
	allocations_overdue as "Número de asignaciones con atraso",
	credit_type as "Tipo de crédito",
	category as "Calificación de riesgo",
	assignment_type as "Tipo de asignación de categoria",
	guaranteed_percent as "% Garantizado",
	net_risk_usd as "Riesgo neto",
	reserve_usd as "Monto de Reserva",
	principal_account as "Cuenta contable Capital",
	interest_account as "Cuenta contable Interes"
from {{ ref('int_loan_portfolio') }}
