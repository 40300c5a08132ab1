-- The products that deposits are kept in, as the seed lists them.
{{ config(materialized='table') }}
select
	code as "Código del producto",
	name as "Nombre del producto",
	status as "Estado del producto",
	generic_code as "Código genérico del producto"
from {{ ref('seed_nrsf_03_products') }}
