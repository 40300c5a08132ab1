/* The fence and the ledger against a warehouse whose every answer the test says. */
#include "apply/stream/ledger.h"

#include <time.h>
#include <unistd.h>

#include "proto/pg/pgconn.h"
#include "tests/unit/unit.h"

/* ---- these stand in for libpq's ---- */

enum answer {
	ROWS,	/* one row of the fields given */
	NONE,	/* no row */
	MANY,	/* 100 rows of the field given */
	DONE,	/* a command's, with a tag */
	LOCKED, /* 55P03 */
	LOST,	/* the connection is gone */
};

static const struct said {
	const char *begins; /* of the statement that must come now */
	enum answer answer;
	const char *field[3]; /* of the row; [0]: the command's tag */
} * script;

static const struct said *current; /* what the result at hand is of */

static PGresult *answer(const char *sql)
{
	assert_non_null(script->begins);
	assert_memory_equal(sql, script->begins, strlen(script->begins));
	current = script++;
	return (PGresult *)(uintptr_t)current;
}

PGresult *PQexec(PGconn *c, const char *sql)
{
	return answer(sql);
}

PGresult *PQexecParams(PGconn *c, const char *sql, int count, const Oid *types,
		       const char *const *values, const int *lengths, const int *formats,
		       int format)
{
	assert_non_null(strstr(values[0], "lana"));
	return answer(sql);
}

ExecStatusType PQresultStatus(const PGresult *res)
{
	if (current->answer == LOCKED || current->answer == LOST)
		return PGRES_FATAL_ERROR;
	return current->answer == DONE ? PGRES_COMMAND_OK : PGRES_TUPLES_OK;
}

char *PQresultErrorField(const PGresult *res, int field)
{
	static char state[] = "55P03", message[] = "lock not available";
	if (current->answer != LOCKED)
		return NULL;
	return field == PG_DIAG_SQLSTATE	  ? state
	       : field == PG_DIAG_MESSAGE_PRIMARY ? message
						  : NULL;
}

int PQntuples(const PGresult *res)
{
	return current->answer == MANY ? 100 : current->answer == ROWS;
}

char *PQgetvalue(const PGresult *res, int row, int column)
{
	return (char *)(uintptr_t)current->field[column];
}

int PQgetisnull(const PGresult *res, int row, int column)
{
	return 0;
}

char *PQcmdStatus(PGresult *res)
{
	return (char *)(uintptr_t)current->field[0];
}

char *PQerrorMessage(const PGconn *c)
{
	static char none[] = "";
	return none;
}

int PQsocket(const PGconn *c)
{
	return -1;
}

void PQclear(PGresult *res)
{
}

static time_t step; /* s between two looks at the clock */

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	static time_t now = 1000;
	*ret = (struct timespec){.tv_sec = now += step};
	return 0;
}

/* ---- takeovers ---- */

static char pipeline[] = "lana";
static struct settings settings;
static struct ledger ledger;
static struct rt_err err;

static int take_over(const struct said *warehouse_says)
{
	script = warehouse_says;
	settings.pipeline = pipeline;
	err = (struct rt_err){0};
	int rc = ledger_take_over(NULL, &settings, &ledger, &err);
	assert_null(script->begins); /* all of it was asked */
	return rc;
}

#define BEGIN                                                                                      \
	{                                                                                          \
		"BEGIN", DONE,                                                                     \
		{                                                                                  \
			"SET"                                                                      \
		}                                                                                  \
	}
#define FENCE(e)                                                                                   \
	{                                                                                          \
		"SELECT epoch", ROWS,                                                              \
		{                                                                                  \
			e, "77", "host 1 1"                                                        \
		}                                                                                  \
	}
#define RAISE(o)                                                                                   \
	{                                                                                          \
		"UPDATE rolag.fence", ROWS,                                                        \
		{                                                                                  \
			o                                                                          \
		}                                                                                  \
	}
#define COMMIT                                                                                     \
	{                                                                                          \
		"COMMIT", DONE,                                                                    \
		{                                                                                  \
			"COMMIT"                                                                   \
		}                                                                                  \
	}
#define APPLIED                                                                                    \
	{                                                                                          \
		"SELECT applied_lsn", ROWS,                                                        \
		{                                                                                  \
			"0/300", "3"                                                               \
		}                                                                                  \
	}
#define RIVALS "SELECT pid, pg_terminate_backend"

static int setup(void **state)
{
	ledger = (struct ledger){0};
	step = 0;
	return 0;
}

static void test_a_takeover(void **state)
{
	const struct said all[] = {BEGIN, FENCE("4"), RAISE("me 2 2"), COMMIT, APPLIED, {0}};
	assert_rc(take_over(all), err);
	assert_int_equal(ledger.epoch, 5);
	assert_int_equal(ledger.system_id, 77);
	assert_string_equal(ledger.owner, "me 2 2");
	assert_int_equal(ledger.applied.v, 0x300);
	assert_int_equal(ledger.timeline, 3);
}

static void test_a_warehouse_without_init_is_refused(void **state)
{
	const struct said no_ledger[] = {
		BEGIN, FENCE("4"), RAISE("me 2 2"), COMMIT, {"SELECT applied_lsn", NONE, {0}}, {0}};
	assert_int_equal(take_over(no_ledger), ERR_PERMANENT);
	assert_says(err, "no ledger row for the pipeline lana; mend: rolag init");
	const struct said asked[] = {BEGIN, {"SELECT epoch", NONE, {0}}, {0}};
	assert_int_equal(take_over(asked), ERR_PERMANENT);
	assert_says(err, "does not know the pipeline lana; mend: rolag init");
}

/* A connection that breaks at each of the steps. */
static void test_a_connection_that_breaks_is_tried_again(void **state)
{
	const struct said all[] = {BEGIN, FENCE("4"), RAISE("me 2 2"), COMMIT, APPLIED};
	for (size_t broken = 0; broken < ARRAY_LEN(all); broken++) {
		struct said one[ARRAY_LEN(all) + 1] = {0};
		memcpy(one, all, (broken + 1) * sizeof(*one));
		one[broken].answer = LOST;
		setup(NULL);
		assert_int_equal(take_over(one), ERR_RETRY);
		assert_says(err, "connection lost");
	}
}

static void test_a_commit_that_was_a_rollback_is_tried_again(void **state)
{
	const struct said all[] = {
		BEGIN, FENCE("4"), RAISE("me 2 2"), {"COMMIT", DONE, {"ROLLBACK"}}, {0}};
	assert_int_equal(take_over(all), ERR_RETRY);
	assert_says(err, "rolled the takeover back");
	assert_int_equal(ledger.epoch, 0);
}

static void test_a_rival_is_ended(void **state)
{
	const struct said all[] = {BEGIN,
				   {"SELECT epoch", LOCKED, {0}},
				   {"ROLLBACK", DONE, {"ROLLBACK"}},
				   {RIVALS, ROWS, {"4711"}},
				   BEGIN,
				   FENCE("4"),
				   RAISE("me 2 2"),
				   COMMIT,
				   APPLIED,
				   {0}};
	assert_rc(take_over(all), err);
	assert_int_equal(ledger.epoch, 5);
	const struct said broken[] = {
		BEGIN, {"SELECT epoch", LOCKED, {0}}, {"ROLLBACK", LOST, {0}}, {0}};
	assert_int_equal(take_over(broken), ERR_RETRY);
	const struct said then[] = {BEGIN,
				    {"SELECT epoch", LOCKED, {0}},
				    {"ROLLBACK", DONE, {"ROLLBACK"}},
				    {RIVALS, LOST, {0}},
				    {0}};
	assert_int_equal(take_over(then), ERR_RETRY);
}

/* The clock goes on 20 s between looks: the second attempt is the last. */
static void test_a_rival_that_does_not_end_is_named(void **state)
{
	const struct said held[] = {{"BEGIN", DONE, {"SET"}},
				    {"SELECT epoch", LOCKED, {0}},
				    {"ROLLBACK", DONE, {"ROLLBACK"}}};
	struct said all[8] = {held[0], held[1], held[2], {RIVALS, ROWS, {"4711"}},
			      held[0], held[1], held[2], {0}};
	step = 20;
	assert_int_equal(take_over(all), ERR_RETRY);
	assert_says(err, "stays locked by another applier (backend pid 4711)");
	/* More than a line has room for: cut between two. */
	all[3] = (struct said){RIVALS, MANY, {"1234567"}};
	assert_int_equal(take_over(all), ERR_RETRY);
	assert_says(err, "1234567 1234567), which");
	/* None that can be seen: it is another user's. */
	all[3] = (struct said){RIVALS, NONE, {0}};
	assert_int_equal(take_over(all), ERR_RETRY);
	assert_says(err, "backend pid unknown");
}

/* ---- whose the fence is ---- */

static const struct said fence_only[] = {BEGIN, FENCE("4"), {0}};
static const struct said whole[] = {BEGIN, FENCE("4"), RAISE("me 2 2"), COMMIT, APPLIED, {0}};

static void have_ledger(int64_t epoch, const char *owner, int64_t tried, const char *tried_owner)
{
	ledger = (struct ledger){.epoch = epoch, .tried_epoch = tried};
	snprintf(ledger.owner, sizeof(ledger.owner), "%s", owner);
	snprintf(ledger.tried_owner, sizeof(ledger.tried_owner), "%s", tried_owner);
}

static void test_the_fence_of_another_applier_stops_this_one(void **state)
{
	have_ledger(3, "host 1 1", 3, "host 1 1"); /* it went on to 4 without us */
	assert_int_equal(take_over(fence_only), ERR_PERMANENT);
	assert_says(err, "another applier has taken over the pipeline lana (epoch 4, ours was 3)");
	have_ledger(4, "other 1 1", 4, "other 1 1"); /* as many takeovers, but not ours */
	assert_int_equal(take_over(fence_only), ERR_PERMANENT);
	have_ledger(3, "host 9 9", 4, "host 9 9"); /* ours was tried, and another's came first */
	assert_int_equal(take_over(fence_only), ERR_PERMANENT);
}

static void test_our_own_fence_is_taken_again(void **state)
{
	have_ledger(4, "host 1 1", 4, "host 1 1");
	assert_rc(take_over(whole), err);
	assert_int_equal(ledger.epoch, 5);
	have_ledger(3, "host 9 9", 4, "host 1 1"); /* the answer to its COMMIT was lost */
	assert_rc(take_over(whole), err);
	assert_int_equal(ledger.epoch, 5);
}

static void test_a_warehouse_that_was_set_back_is_taken_anew(void **state)
{
	have_ledger(9, "host 9 9", 9, "host 9 9");
	assert_rc(take_over(whole), err);
	assert_int_equal(ledger.epoch, 5);
	assert_string_equal(ledger.owner, "me 2 2");
}

/* ---- what is on the warehouse's disk ---- */

static void test_applied_is_flushed_when_the_warehouse_is(void **state)
{
	ledger = (struct ledger){.applied = {0x300}};
	assert_false(ledger_position(&ledger, (struct lsn){0x50}, (struct lsn){0x40}));
	ledger.applied.v = 0x400; /* waits behind the older one */
	assert_false(ledger_position(&ledger, (struct lsn){0x70}, (struct lsn){0x4F}));
	assert_true(ledger_position(&ledger, (struct lsn){0x70}, (struct lsn){0x50}));
	assert_int_equal(ledger.flushed.v, 0x300);
	assert_true(ledger_position(&ledger, (struct lsn){0x70}, (struct lsn){0x70}));
	assert_int_equal(ledger.flushed.v, 0x400);
	assert_false(ledger_position(&ledger, (struct lsn){0x80}, (struct lsn){0x80}));
	ledger.applied.v = 0x500;
	assert_true(ledger_position(&ledger, (struct lsn){0x90}, (struct lsn){0x90}));
	assert_int_equal(ledger.flushed.v, 0x500);
}

#define TEST(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_takeover),
		TEST(test_a_warehouse_without_init_is_refused),
		TEST(test_a_connection_that_breaks_is_tried_again),
		TEST(test_a_commit_that_was_a_rollback_is_tried_again),
		TEST(test_a_rival_is_ended),
		TEST(test_a_rival_that_does_not_end_is_named),
		TEST(test_the_fence_of_another_applier_stops_this_one),
		TEST(test_our_own_fence_is_taken_again),
		TEST(test_a_warehouse_that_was_set_back_is_taken_anew),
		TEST(test_applied_is_flushed_when_the_warehouse_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
