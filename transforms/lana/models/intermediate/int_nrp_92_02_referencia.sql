-- Loans of facilities that have not matured, as the supervisor wants them; with the ids of the core, which other
-- models join on.
{{ config(materialized='table') }}
with overdue as (
	select
		credit_facility_id,
		max(overdue_days) filter (where obligation_type = 'Disbursal') as days_k,
		max(overdue_days) filter (where obligation_type = 'Interest') as days_i,
		min(overdue_date) filter (where obligation_type = 'Disbursal') as since_k,
		min(overdue_date) filter (where obligation_type = 'Interest') as since_i
	from {{ ref('int_core_obligation_events_rollup') }}
	where overdue_days > 0
	group by credit_facility_id
),
loans as (
	select
		l.*,
		coalesce(o.days_k, 0) as days_k,
		coalesce(o.days_i, 0) as days_i,
		o.since_k,
		o.since_i,
		l.disbursed_usd - l.principal_paid_usd as principal_usd,
		l.interest_incurred_usd - l.interest_paid_usd as interest_usd,
		l.disbursed_usd + l.interest_incurred_usd - l.interest_paid_usd - l.principal_paid_usd as balance_usd
	from {{ ref('int_approved_credit_facility_loans') }} l
	left join overdue o using (credit_facility_id)
	where not l.matured
)
select
	l.disbursal_id,
	l.credit_facility_id,
	l.customer_id,
	l.credit_facility_public_id,
	l.collateral_btc,
	l.collateral_usd,
	l.initial_price_usd,
	l.latest_price_usd,
	l.credit_facility_modified_at,
	r.reserve_percent,
	replace(c.public_id, '-', '') as documento_deudor,
	'01' as cod_cartera,
	'PD' as cod_activo,
	l.disbursal_public_id as num_referencia,
	l.disbursed_usd as monto_referencia,
	l.balance_usd::numeric(19,2) as saldo_referencia,
	l.principal_usd::numeric(19,2) as saldo_vigente_k,
	0::numeric(19,2) as saldo_vencido_k,
	l.interest_usd::numeric(19,2) as saldo_vigente_i,
	0::numeric(19,2) as saldo_vencido_i,
	0::numeric(19,2) as abono_deposito,
	l.start_date as fecha_otorgamiento,
	l.end_date as fecha_vencimiento,
	null::date as fecha_castigo,
	'1' as estado_credito,
	0::numeric(19,2) as saldo_mora_k,
	0::numeric(19,2) as saldo_mora_i,
	l.days_k as dias_mora_k,
	l.days_i as dias_mora_i,
	l.since_k as fecha_inicio_mora_k,
	l.since_i as fecha_inicio_mora_i,
	case when l.accrual_cycle_interval = 'end_of_month' then 'A' end as pago_capital,
	case when l.accrual_cycle_interval = 'end_of_month' then 'M' end as pago_interes,
	null::integer as periodo_gracia_k,
	null::integer as periodo_gracia_i,
	null::text as "emisión",
	9300 as pais_destino_credito,
	'010101' as destino,
	'1' as codigo_moneda,
	l.annual_rate as tasa_interes,
	l.annual_rate as tasa_contractual,
	null::numeric as tasa_referencia,
	l.annual_rate as tasa_efectiva,
	'F' as tipo_tasa_interes,
	'CD' as tipo_prestamo,
	'01' as codigo_recurso,
	null::date as ultima_fecha_venc,
	null::integer as dias_prorroga,
	l.disbursed_usd as monto_desembolsado,
	null::text as tipo_credito,
	(l.last_principal_payment_at at time zone 'UTC')::date as fecha_ultimo_pago_k,
	(l.last_interest_payment_at at time zone 'UTC')::date as fecha_ultimo_pago_i,
	extract(day from l.last_principal_payment_at at time zone 'UTC')::integer as dia_pago_k,
	extract(day from l.last_interest_payment_at at time zone 'UTC')::integer as dia_pago_i,
	null::integer as cuota_mora_k,
	null::integer as cuota_mora_i,
	null::numeric(19,2) as monto_cuota,
	'114' as cuenta_contable_k,
	'114' as cuenta_contable_i,
	null::date as fecha_cancelacion,
	null::numeric(19,2) as adelanto_capital,
	(l.balance_usd - l.collateral_usd)::numeric(19,2) as riesgo_neto,
	null::numeric(19,2) as saldo_seguro,
	null::numeric(19,2) as saldo_costas_procesales,
	null::text as tipo_tarjeta_credito,
	null::text as clase_tarjeta_credito,
	null::text as producto_tarjeta_credito,
	null::numeric(19,2) as valor_garantia_cons,
	null::text as distrito_otorgamiento,
	(greatest(l.balance_usd - l.collateral_usd, 0) * r.reserve_percent * 0.01)::numeric(19,2) as reserva_referencia,
	null::text as etapa_judicial,
	null::date as fecha_demanda,
	l.duration_value as plazo_credito,
	'SO' as orden_descuento,
	r.category as categoria_riesgo_ref
from loans l
join {{ ref('int_core_customer_events_rollup') }} c using (customer_id)
left join {{ ref('seed_risk_categories') }} r
	on greatest(l.days_k, l.days_i) >= r.from_days
	and (r.to_days is null or greatest(l.days_k, l.days_i) <= r.to_days)
