-- Lana's core for the demo and the tests: the 33 event tables that have a rollup, the index table of
-- each entity, core_public_ids, the inbox, and the ledger's tables that models read. Like the real
-- core: an event table has no primary key, only UNIQUE (id, sequence), and its rows need their index
-- row first. Left out: the rollup tables and their triggers (rolag does their work), the rest of the
-- ledger, jobs and outboxes.
--
-- Run in an empty database: psql -v ON_ERROR_STOP=1 -f core.sql

begin;

create table core_public_ids (
	id varchar primary key,
	target_id uuid not null,
	created_at timestamptz not null
);

create table core_charts (
	id uuid primary key,
	reference varchar not null unique,
	created_at timestamptz not null
);

create table core_chart_nodes (
	id uuid primary key,
	chart_id uuid not null references core_charts (id),
	created_at timestamptz not null
);

create table core_collaterals (
	id uuid primary key,
	custody_wallet_id uuid,
	created_at timestamptz not null
);

create table core_committees (
	id uuid primary key,
	name varchar not null unique,
	created_at timestamptz not null
);

create table core_custodians (
	id uuid primary key,
	name varchar not null unique,
	provider varchar not null unique,
	created_at timestamptz not null
);

create table core_deposit_accounts (
	id uuid primary key,
	account_holder_id uuid not null,
	public_id varchar not null references core_public_ids (id),
	status varchar not null,
	activity varchar not null default 'active',
	created_at timestamptz not null
);

create table core_deposits (
	id uuid primary key,
	deposit_account_id uuid not null references core_deposit_accounts (id),
	reference varchar not null unique,
	public_id varchar not null references core_public_ids (id),
	status varchar not null,
	amount bigint not null,
	created_at timestamptz not null
);

create table core_documents (
	id uuid primary key,
	reference_id uuid not null,
	deleted boolean not null default false,
	created_at timestamptz not null default now()
);

create table core_domain_configs (
	id uuid primary key,
	key varchar not null unique,
	visibility text not null,
	encrypted boolean not null,
	created_at timestamptz not null
);

create table core_fiscal_years (
	id uuid primary key,
	chart_id uuid not null references core_charts (id),
	reference varchar not null unique,
	opened_as_of date not null,
	created_at timestamptz not null
);

create table core_liquidations (
	id uuid primary key,
	collateral_id uuid not null references core_collaterals (id),
	completed boolean not null default false,
	expected_to_receive bigint not null,
	amount_received bigint not null default 0,
	sent_total bigint not null default 0,
	created_at timestamptz not null
);

create table core_manual_transactions (
	id uuid primary key,
	reference varchar not null unique,
	ledger_transaction_id uuid not null,
	created_at timestamptz not null
);

create table core_obligations (
	id uuid primary key,
	beneficiary_id uuid not null,
	reference varchar not null unique,
	next_transition_date date,
	created_at timestamptz not null
);

create table core_parties (
	id uuid primary key,
	email varchar not null unique,
	telegram_handle varchar not null unique,
	created_at timestamptz not null
);

create table core_customers (
	id uuid primary key,
	party_id uuid not null references core_parties (id),
	customer_type varchar not null,
	status varchar not null default 'active',
	public_id varchar not null references core_public_ids (id),
	created_at timestamptz not null
);

create table core_payments (
	id uuid primary key,
	beneficiary_id uuid not null,
	created_at timestamptz not null
);

create table core_payment_allocations (
	id uuid primary key,
	payment_id uuid not null references core_payments (id),
	obligation_id uuid not null references core_obligations (id),
	beneficiary_id uuid not null,
	created_at timestamptz not null
);

create table core_permission_sets (
	id uuid primary key,
	name varchar not null unique,
	created_at timestamptz not null
);

create table core_policies (
	id uuid primary key,
	committee_id uuid references core_committees (id),
	process_type varchar not null unique,
	created_at timestamptz not null
);

create table core_approval_processes (
	id uuid primary key,
	policy_id uuid references core_policies (id),
	committee_id uuid references core_committees (id),
	process_type varchar not null,
	created_at timestamptz not null
);

create table core_credit_facility_proposals (
	id uuid primary key,
	customer_id uuid not null references core_customers (id),
	approval_process_id uuid references core_approval_processes (id),
	status varchar not null default 'PendingCustomerApproval',
	amount bigint not null,
	created_at timestamptz not null
);

create table core_pending_credit_facilities (
	id uuid primary key,
	credit_facility_proposal_id uuid not null references core_credit_facility_proposals (id),
	customer_id uuid not null references core_customers (id),
	approval_process_id uuid not null references core_approval_processes (id),
	collateral_id uuid not null references core_collaterals (id),
	collateralization_ratio numeric,
	collateralization_state varchar not null,
	status varchar not null default 'PendingCollateralization',
	amount bigint not null,
	created_at timestamptz not null
);

create table core_credit_facilities (
	id uuid primary key,
	customer_id uuid not null references core_customers (id),
	pending_credit_facility_id uuid not null references core_pending_credit_facilities (id),
	collateral_id uuid not null references core_collaterals (id),
	collateralization_ratio numeric,
	collateralization_state varchar not null,
	status varchar not null,
	public_id varchar not null references core_public_ids (id),
	maturity_date date,
	created_at timestamptz not null
);

create table core_disbursals (
	id uuid primary key,
	credit_facility_id uuid not null references core_credit_facilities (id),
	approval_process_id uuid not null references core_approval_processes (id),
	obligation_id uuid references core_obligations (id),
	concluded_tx_id uuid,
	public_id varchar not null references core_public_ids (id),
	status varchar not null default 'New',
	amount bigint not null,
	created_at timestamptz not null
);

create table core_interest_accrual_cycles (
	id uuid primary key,
	credit_facility_id uuid not null references core_credit_facilities (id),
	idx integer not null,
	next_accrual_period_end date,
	created_at timestamptz not null,
	unique (credit_facility_id, idx)
);

create table core_prospects (
	id uuid primary key,
	party_id uuid not null references core_parties (id),
	customer_type varchar not null,
	public_id varchar not null references core_public_ids (id),
	stage varchar not null,
	created_at timestamptz not null
);

create table core_report_runs (
	id uuid primary key,
	external_id varchar not null unique,
	created_at timestamptz not null
);

create table core_reports (
	id uuid primary key,
	external_id varchar not null unique,
	run_id uuid not null,
	created_at timestamptz not null
);

create table core_roles (
	id uuid primary key,
	name varchar not null unique,
	created_at timestamptz not null
);

create table core_terms_templates (
	id uuid primary key,
	name varchar not null unique,
	created_at timestamptz not null
);

create table core_users (
	id uuid primary key,
	email varchar not null unique,
	created_at timestamptz not null
);

create table core_wallets (
	id uuid primary key,
	external_wallet_id varchar,
	created_at timestamptz not null
);

create table core_withdrawals (
	id uuid primary key,
	deposit_account_id uuid not null references core_deposit_accounts (id),
	approval_process_id uuid references core_approval_processes (id),
	cancelled_tx_id uuid,
	reference varchar not null unique,
	public_id varchar not null references core_public_ids (id),
	status varchar not null,
	amount bigint not null,
	created_at timestamptz not null
);

create table core_chart_events (
	id uuid not null references core_charts (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_chart_node_events (
	id uuid not null references core_chart_nodes (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_collateral_events (
	id uuid not null references core_collaterals (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_committee_events (
	id uuid not null references core_committees (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_custodian_events (
	id uuid not null references core_custodians (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_deposit_account_events (
	id uuid not null references core_deposit_accounts (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_deposit_events (
	id uuid not null references core_deposits (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_document_events (
	id uuid not null references core_documents (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null default now(),
	unique (id, sequence)
);

create table core_domain_config_events (
	id uuid not null references core_domain_configs (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_fiscal_year_events (
	id uuid not null references core_fiscal_years (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_liquidation_events (
	id uuid not null references core_liquidations (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_manual_transaction_events (
	id uuid not null references core_manual_transactions (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_obligation_events (
	id uuid not null references core_obligations (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_party_events (
	id uuid not null references core_parties (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_customer_events (
	id uuid not null references core_customers (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_payment_events (
	id uuid not null references core_payments (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_payment_allocation_events (
	id uuid not null references core_payment_allocations (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_permission_set_events (
	id uuid not null references core_permission_sets (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_policy_events (
	id uuid not null references core_policies (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_approval_process_events (
	id uuid not null references core_approval_processes (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_credit_facility_proposal_events (
	id uuid not null references core_credit_facility_proposals (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_pending_credit_facility_events (
	id uuid not null references core_pending_credit_facilities (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_credit_facility_events (
	id uuid not null references core_credit_facilities (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_disbursal_events (
	id uuid not null references core_disbursals (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_interest_accrual_cycle_events (
	id uuid not null references core_interest_accrual_cycles (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_prospect_events (
	id uuid not null references core_prospects (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_report_run_events (
	id uuid not null references core_report_runs (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_report_events (
	id uuid not null references core_reports (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_role_events (
	id uuid not null references core_roles (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_terms_template_events (
	id uuid not null references core_terms_templates (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_user_events (
	id uuid not null references core_users (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_wallet_events (
	id uuid not null references core_wallets (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create table core_withdrawal_events (
	id uuid not null references core_withdrawals (id),
	sequence integer not null,
	event_type varchar not null,
	event jsonb not null,
	context jsonb,
	recorded_at timestamptz not null,
	unique (id, sequence)
);

create type debitorcredit as enum ('debit', 'credit');
create type status as enum ('active', 'locked');
create type inboxeventstatus as enum ('pending', 'processing', 'completed', 'failed');

create table cala_journals (
	id uuid primary key,
	name varchar not null,
	code varchar unique,
	created_at timestamptz not null
);

create table cala_accounts (
	id uuid primary key,
	code varchar not null unique,
	name varchar not null,
	external_id varchar unique,
	normal_balance_type debitorcredit not null,
	eventually_consistent boolean not null,
	velocity_context_values jsonb not null,
	status status not null,
	created_at timestamptz not null
);

create table cala_account_sets (
	id uuid primary key references cala_accounts (id),
	journal_id uuid not null references cala_journals (id),
	name varchar not null,
	external_id varchar unique,
	created_at timestamptz not null default now()
);

create table cala_account_set_member_accounts (
	account_set_id uuid not null references cala_account_sets (id),
	member_account_id uuid not null references cala_accounts (id),
	transitive boolean not null default false,
	created_at timestamptz not null default now(),
	constraint cala_set_accounts_key unique (account_set_id, member_account_id)
);

create table cala_account_set_member_account_sets (
	account_set_id uuid not null references cala_account_sets (id),
	member_account_set_id uuid not null references cala_account_sets (id),
	created_at timestamptz not null default now(),
	constraint cala_set_sets_key unique (account_set_id, member_account_set_id)
);

create table cala_balance_history (
	journal_id uuid not null,
	account_id uuid not null,
	latest_entry_id uuid not null,
	currency varchar not null,
	version integer not null,
	values jsonb not null,
	recorded_at timestamptz not null default now(),
	unique (account_id, journal_id, currency, version)
);

create table cala_cumulative_effective_balances (
	journal_id uuid not null,
	account_id uuid not null,
	currency varchar not null,
	effective date not null,
	version integer not null,
	all_time_version integer not null,
	latest_entry_id uuid not null,
	values jsonb not null,
	updated_at timestamptz not null default now(),
	created_at timestamptz not null default now(),
	unique (journal_id, account_id, currency, effective, version)
);

create table inbox_events (
	id uuid primary key default gen_random_uuid(),
	idempotency_key varchar unique,
	payload jsonb not null,
	status inboxeventstatus not null default 'pending',
	error varchar,
	recorded_at timestamptz not null default now(),
	processed_at timestamptz
);

-- Members are taken out of sets, and these two have no primary key: without an identity the core's own
-- DELETE would fail once they are published. Of a real core this is its owner's to do.
alter table cala_account_set_member_accounts replica identity using index cala_set_accounts_key;
alter table cala_account_set_member_account_sets replica identity using index cala_set_sets_key;

commit;
