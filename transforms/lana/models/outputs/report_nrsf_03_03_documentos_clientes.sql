-- Deposit insurance, identity documents.
{{ config(materialized='table') }}
select
	"NIU",
	"Código del Documento",
	"Número de documento"
from {{ ref('int_nrsf_03_03_documentos_clientes') }}
