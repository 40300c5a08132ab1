-- Confirmed deposits and withdrawals of the threshold and more, that were not reverted.
with deposits as (
	select deposit_id, min(deposit_modified_at) as confirmed_at
	from {{ ref('int_core_deposit_events_rollup_sequence') }}
	where status = 'Confirmed' and amount_usd >= {{ var('uif_threshold_usd') }}
	group by deposit_id
),
withdrawals as (
	select withdrawal_id, min(withdrawal_modified_at) as confirmed_at
	from {{ ref('int_core_withdrawal_events_rollup_sequence') }}
	where is_confirmed and amount_usd >= {{ var('uif_threshold_usd') }}
	group by withdrawal_id
),
transactions as (
	select d.public_id, t.confirmed_at, d.reference, d.amount_usd, d.deposit_account_id, true as is_deposit
	from deposits t
	join {{ ref('int_core_deposit_events_rollup') }} d using (deposit_id)
	where d.status = 'Confirmed'
	union all
	select w.public_id, t.confirmed_at, w.reference, w.amount_usd, w.deposit_account_id, false
	from withdrawals t
	join {{ ref('int_core_withdrawal_events_rollup') }} w using (withdrawal_id)
	where w.status = 'Confirmed'
)
select
	t.public_id as numeroregistrobancario,
	jsonb_build_object('direccionAgencia', b.full_address, 'idDepartamento', b.region_id, 'idMunicipio', b.town_id)
		as estacionservicio,
	t.confirmed_at as fechatransaccion,
	null::integer as tipopersonaa,
	null::text as detallespersonaa,
	null::integer as tipopersonab,
	null::text as detallespersonab,
	case when not t.is_deposit then a.public_id end as numerocuentapo,
	case when not t.is_deposit then 'Cuenta Corriente' end as clasecuentapo,
	t.reference as conceptotransaccionpo,
	t.amount_usd as valorotrosmedioselectronicospo,
	case when t.is_deposit then a.public_id end as numeroproductopb,
	case when t.is_deposit then 'Cuenta Corriente' end as clasecuentapb,
	t.amount_usd as montotransaccionpb,
	t.amount_usd as valormedioelectronicopb,
	null::text as bancocuentadestinatariapb
from transactions t
join {{ ref('int_core_deposit_account_events_rollup') }} a using (deposit_account_id)
left join {{ ref('seed_bank_address') }} b on true
