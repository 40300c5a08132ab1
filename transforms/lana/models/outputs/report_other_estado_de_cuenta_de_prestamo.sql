-- Statement lines of every loan.
{{ config(materialized='table') }}
select
	credit_facility_public_id as "Línea de crédito",
	disbursal_public_id as "Número de desembolso",
	start_date as "Fecha de desembolso",
	interest_rate as "Tasa de interés",
	customer_name as "Nombre del cliente",
	disbursed_usd as "Monto desembolsado",
	end_date as "Fecha de vencimiento",
	booked_at as "Fecha y hora",
	transaction_type as "Transacción",
	principal_usd as "Principal",
	interest_usd as "Interes",
	commission_usd as "Comisión",
	vat_usd as "IVA",
	total_transaction_usd as "Total transacción",
	principal_balance_usd as "Saldo Principal",
	status as "Estado",
	disbursal_id,
	line_no
from {{ ref('int_loan_statements') }}
