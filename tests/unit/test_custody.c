/* cdc/capture's custody where it is pure: the forecast of the slot's loss, and how a slot is asked for. */
#include "tests/unit/unit.h"

#include "cdc/capture/forecast.h"
#include "cdc/capture/look.h"
#include "proto/pg/slot.h"

#define SECOND INT64_C(1000000)
#define MB     (UINT64_C(1) << 20)

static void test_trap_25_loss_is_foreseen_from_measured_growth(void **state)
{
	struct forecast f = {0};
	assert_int_equal(forecast_growth(&f), 0);
	assert_int_equal(forecast_lost_in_us(&f, 1), -1);
	for (int s = 0; s <= 60; s++) { /* 2 MB a second, 60 looks */
		forecast_look(&f, 1000 * SECOND + s * SECOND, 100 * MB + 2 * MB * (uint64_t)s);
		assert_int_equal(forecast_growth(&f), s < 5 ? 0 : 2 * MB);
	}
	assert_int_equal(forecast_lost_in_us(&f, (int64_t)(2 * MB * 11400)), 11400 * SECOND);
	assert_int_equal(forecast_lost_in_us(&f, 0), 0);
	assert_int_equal(forecast_lost_in_us(&f, -1), -1); /* no limit */
}

/* A slot in use goes up and down with its restart_lsn: no loss to be foreseen. */
static void test_a_slot_that_moves_on_is_not_lost(void **state)
{
	struct forecast f = {0};
	for (int s = 0; s < 7200; s++)
		forecast_look(&f, s * SECOND, (uint64_t)(s % 15) * 16 * MB);
	assert_true(forecast_growth(&f) < MB);
	assert_false(forecast_alarms(forecast_lost_in_us(&f, INT64_C(1) << 34), 200 * MB,
				     INT64_C(1) << 34));
}

/* What was ten minutes ago does not count: neither a quiet night nor a burst that is over. */
static void test_only_the_last_ten_minutes_count(void **state)
{
	struct forecast f = {0};
	uint64_t bytes = 0;
	for (int s = 0; s < 3600; s++)
		forecast_look(&f, s * SECOND, bytes);
	for (int s = 3600; s < 4300; s++)
		forecast_look(&f, s * SECOND, bytes += MB);
	assert_int_equal(forecast_growth(&f), MB);
	for (int s = 4300; s < 5000; s++)
		forecast_look(&f, s * SECOND, bytes);
	assert_int_equal(forecast_growth(&f), 0);
	assert_true(f.count <= FORECAST_LOOKS);
	forecast_look(&f, 100000 * SECOND, bytes + 1); /* after a long silence it begins anew */
	assert_int_equal(f.count, 1);
}

static void test_an_alarm_is_near_in_time_and_in_bytes(void **state)
{
	assert_true(forecast_alarms(3600 * SECOND, 200 * MB, (int64_t)(800 * MB)));
	assert_false(forecast_alarms(5 * 3600 * SECOND, 200 * MB, (int64_t)(800 * MB)));
	assert_false(forecast_alarms(3600 * SECOND, 100 * MB, (int64_t)(800 * MB)));
	assert_false(forecast_alarms(-1, 900 * MB, (int64_t)(100 * MB)));
	assert_false(forecast_alarms(0, 900 * MB, -1));
}

static void expect_sql(const struct slot_options *o, int version, const char *sql)
{
	struct buf b = BUF_INIT;
	slot_create_sql(&b, o, version);
	assert_string_equal(buf_cstr(&b), sql);
	buf_release(&b);
}

static void test_failover_slots_where_the_server_has_them(void **state)
{
	struct slot_options o = {.name = "rolag_lana", .failover = true};
	expect_sql(&o, 150018,
		   "CREATE_REPLICATION_SLOT \"rolag_lana\" LOGICAL pgoutput (SNAPSHOT 'nothing')");
	expect_sql(&o, 169999,
		   "CREATE_REPLICATION_SLOT \"rolag_lana\" LOGICAL pgoutput (SNAPSHOT 'nothing')");
	expect_sql(&o, 170000,
		   "CREATE_REPLICATION_SLOT \"rolag_lana\" LOGICAL pgoutput (SNAPSHOT 'nothing', "
		   "FAILOVER true)");
	o.failover = false;
	expect_sql(&o, 170000,
		   "CREATE_REPLICATION_SLOT \"rolag_lana\" LOGICAL pgoutput (SNAPSHOT 'nothing')");
	o = (struct slot_options){
		.name = "t", .failover = true, .temporary = true, .snapshot = SLOT_EXPORT};
	expect_sql(&o, 170000,
		   "CREATE_REPLICATION_SLOT \"t\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')");
}

static void test_trap_57_a_publication_made_again_is_another_one(void **state)
{
	const struct look first = {.oid = {16400, 16401}}, gone = {.oid = {0, 16401}, .missing = 1},
			  again = {.oid = {16400, 17000}};
	assert_int_equal(look_made_again(&first, &first), -1);
	assert_int_equal(look_made_again(&first, &gone), -1);
	assert_int_equal(look_made_again(&gone, &first), 0);
	assert_int_equal(look_made_again(&first, &again), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trap_25_loss_is_foreseen_from_measured_growth),
		cmocka_unit_test(test_a_slot_that_moves_on_is_not_lost),
		cmocka_unit_test(test_only_the_last_ten_minutes_count),
		cmocka_unit_test(test_an_alarm_is_near_in_time_and_in_bytes),
		cmocka_unit_test(test_failover_slots_where_the_server_has_them),
		cmocka_unit_test(test_trap_57_a_publication_made_again_is_another_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
