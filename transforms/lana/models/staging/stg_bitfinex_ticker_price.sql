-- Market prices of a bitcoin, one row per poll.
select
	requested_at,
	last_price as last_price_usd
from {{ source('ext', 'market_prices') }}
