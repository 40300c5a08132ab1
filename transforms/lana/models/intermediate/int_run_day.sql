-- The day of the run, in UTC: the only model that knows what day it is.
{{ config(materialized='table') }}
select {{ var('run_day') }} as run_day
