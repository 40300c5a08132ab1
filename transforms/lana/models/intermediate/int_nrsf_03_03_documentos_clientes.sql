-- Identity documents of customers: tax number, identity card and passport, as far as they are known.
select
	c.customer_id,
	c.public_id as "NIU",
	d.code as "Código del Documento",
	d.number as "Número de documento"
from {{ ref('int_customers') }} c
cross join lateral (
	values ('NIT', c.tax_id), ('DUI', c.dui_number), ('PASAP', c.passport_number)
) as d(code, number)
where d.number is not null
