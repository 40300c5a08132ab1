-- The bank's agencies, as the seed lists them, with the day of the run (its beginning, UTC).
{{ config(materialized='table') }}
select
	code as "Código de la Agencia",
	name as "Nombre de la Agencia",
	address as "Ubicación de la Agencia",
	region_code as "Código del Departamento",
	district_code as "Código del Distrito",
	status as "Estado de la Agencia",
	({{ var('run_day') }})::timestamp at time zone 'UTC' as created_at
from {{ ref('seed_nrsf_03_agencies') }}
