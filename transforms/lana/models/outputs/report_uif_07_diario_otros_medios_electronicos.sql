-- Electronic transfers of 25 000 dollars and more.
{{ config(materialized='table') }}
select
	numeroregistrobancario,
	estacionservicio,
	fechatransaccion,
	tipopersonaa,
	detallespersonaa,
	tipopersonab,
	detallespersonab,
	numerocuentapo,
	clasecuentapo,
	conceptotransaccionpo,
	valorotrosmedioselectronicospo,
	numeroproductopb,
	clasecuentapb,
	montotransaccionpb,
	valormedioelectronicopb,
	bancocuentadestinatariapb
from {{ ref('int_uif_07_diario_otros_medios_electronicos') }}
