-- What does not come from the core: schema ext of the warehouse, and the role that may write there and nowhere else.
-- A superuser or the warehouse's owner runs it once: psql -v ON_ERROR_STOP=1 -f ext.sql
-- A writer logs in as a member of rolag_ext: GRANT rolag_ext TO prices_feed;

begin;

do $$
begin
	if not exists (select from pg_roles where rolname = 'rolag_ext') then
		create role rolag_ext nologin;
	end if;
end $$;

create schema if not exists ext;

create table if not exists ext.market_prices (
	requested_at timestamptz primary key,
	last_price numeric(19,2) not null check (last_price > 0)
);
comment on table ext.market_prices is 'Market prices of a bitcoin in US dollars, one row per poll; only added to.';

create table if not exists ext.kyc_applicants (
	customer_id uuid not null,
	recorded_at timestamptz not null,
	content jsonb not null check (jsonb_typeof(content) = 'object'),
	primary key (customer_id, recorded_at)
);
comment on table ext.kyc_applicants is
	'What the identity provider answered of a customer (its externalUserId), each answer a row; only added to.';

revoke all on schema ext from public;
grant usage on schema ext to rolag_ext;
grant select, insert on ext.market_prices, ext.kyc_applicants to rolag_ext;

commit;
