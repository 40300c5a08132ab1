-- Customers of the deposit insurance. The amount insured is what they have pledged, up to the limit.
with pledged as (
	select customer_id, sum(collateral_amount_usd) as collateral_usd
	from {{ ref('int_approved_credit_facilities') }}
	group by customer_id
)
select
	c.customer_id,
	c.public_id as "NIU",
	c.first_names[1] as "Primer Nombre",
	c.first_names[2] as "Segundo Nombre",
	nullif(array_to_string(c.first_names[3:], ' '), '') as "Tercer Nombre",
	c.last_names[1] as "Primer Apellido",
	nullif(array_to_string(c.last_names[2:], ' '), '') as "Segundo Apellido",
	null::text as "Apellido de casada",
	null::text as "Razón social",
	null::text as "Tipo de persona",
	c.nationality_code::text as "Nacionalidad",
	null::text as "Actividad Económica",
	c.country_code::text as "País de Residencia",
	'15' as "Departamento",
	'00' as "Distrito",
	c.address as "Dirección",
	null::text as "Número de teléfono fijo",
	c.phone as "Número de celular",
	c.email as "Correo electrónico",
	'0' as "Es residente",
	'1' as "Tipo de sector",
	c.date_of_birth as "Fecha de Nacimiento",
	c.gender as "Género",
	null::text as "Estado civil",
	'A1' as "Clasificación de Riesgo",
	null::text as "Tipo de relación",
	null::text as "Agencia",
	case when p.collateral_usd is not null
		then least(p.collateral_usd, {{ var('deposit_coverage_limit_usd') }})
	end::numeric(19,2) as "Saldo garantizado"
from {{ ref('int_customers') }} c
left join pledged p using (customer_id)
