/* proto/base/notify and what loop makes of it: the service manager is a socket of the test's. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/loop.h"
#include "proto/base/metrics.h"
#include "proto/base/notify.h"

#define SECOND INT64_C(1000000)

struct manager {
	int fd;
	char path[64]; /* as NOTIFY_SOCKET has it; '@' first: an abstract one */
};

static void manager_open(struct manager *m, bool abstract)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	snprintf(m->path, sizeof(m->path), "%crolag-unit-%d", abstract ? '@' : '/', (int)getpid());
	if (!abstract)
		snprintf(m->path, sizeof(m->path), "/tmp/rolag-unit-%d", (int)getpid());
	memcpy(at.sun_path, m->path, strlen(m->path));
	if (abstract)
		at.sun_path[0] = '\0';
	m->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	assert_true(m->fd >= 0);
	assert_int_equal(
		bind(m->fd, (struct sockaddr *)&at,
		     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(m->path))),
		0);
	assert_int_equal(setenv("NOTIFY_SOCKET", m->path, 1), 0);
}

static void manager_close(struct manager *m)
{
	notify_close();
	close(m->fd);
	if (m->path[0] == '/')
		unlink(m->path);
	met_state("");
	met_note("%s", "");
}

/* The next message, or "". */
static const char *heard(struct manager *m)
{
	static char text[1024];
	ssize_t n = recv(m->fd, text, sizeof(text) - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void test_ready_is_said_once_by_either_kind_of_socket(void **state)
{
	for (int abstract = 0; abstract < 2; abstract++) {
		struct manager m;
		manager_open(&m, abstract);
		notify_open();
		assert_null(getenv("NOTIFY_SOCKET")); /* no child speaks for us */
		assert_true(notify_ready());
		assert_true(notify_ready());
		assert_string_equal(heard(&m), "READY=1");
		assert_string_equal(heard(&m), "");
		notify_stopping();
		notify_stopping();
		assert_string_equal(heard(&m), "STOPPING=1");
		assert_string_equal(heard(&m), "");
		manager_close(&m);
	}
}

static void test_a_manager_that_is_not_there_costs_nothing(void **state)
{
	static const char *const path[] = {"", "relative", "/", "/tmp/rolag-unit-nobody-listens",
					   "@"};
	for (size_t i = 0; i < ARRAY_LEN(path); i++) {
		assert_int_equal(setenv("NOTIFY_SOCKET", path[i], 1), 0);
		notify_open();
		assert_true(notify_ready());
		notify_stopping();
		notify_turn(SECOND);
		assert_int_equal(notify_due(), NOTIFY_NEVER);
	}
	notify_open(); /* not set at all */
	assert_int_equal(notify_due(), NOTIFY_NEVER);
}

static void test_the_watchdog_is_fed_three_times_in_its_time(void **state)
{
	struct manager m;
	manager_open(&m, true);
	assert_int_equal(setenv("WATCHDOG_USEC", "3000000", 1), 0);
	notify_open();
	assert_null(getenv("WATCHDOG_USEC"));
	int fed = 0;
	for (int64_t now = 100 * SECOND; now < 109 * SECOND; now += SECOND / 10) {
		notify_turn(now);
		fed += strcmp(heard(&m), "WATCHDOG=1") == 0;
		assert_true(notify_due() > now && notify_due() <= now + SECOND);
	}
	assert_int_equal(fed, 9);
	manager_close(&m);
}

static void test_the_watchdog_of_another_process_is_not_ours(void **state)
{
	static const char *const usec[] = {"3000000", "", "-5", "3x"};
	for (size_t i = 0; i < ARRAY_LEN(usec); i++) {
		struct manager m;
		manager_open(&m, true);
		assert_int_equal(setenv("WATCHDOG_USEC", usec[i], 1), 0);
		if (i == 0)
			assert_int_equal(setenv("WATCHDOG_PID", "1", 1), 0);
		notify_open();
		notify_turn(100 * SECOND);
		assert_string_equal(heard(&m), "");
		assert_int_equal(notify_due(), NOTIFY_NEVER);
		manager_close(&m);
	}
}

static void test_status_is_said_when_it_changes_and_once_a_second(void **state)
{
	struct manager m;
	manager_open(&m, true);
	notify_open();
	met_state("live");
	assert_int_equal(notify_due(), 0);
	notify_turn(100 * SECOND);
	assert_string_equal(heard(&m), "STATUS=live");
	notify_turn(102 * SECOND);
	assert_string_equal(heard(&m), "");
	assert_int_equal(notify_due(), NOTIFY_NEVER);
	met_state("waiting");
	notify_turn(103 * SECOND);
	assert_string_equal(heard(&m), "STATUS=waiting");
	met_state("live");
	notify_turn(103 * SECOND + 1);
	assert_string_equal(heard(&m), "");
	assert_int_equal(notify_due(), 104 * SECOND);
	notify_turn(notify_due());
	assert_string_equal(heard(&m), "STATUS=live");
	manager_close(&m);
}

/* A server's words are in a note: a line of theirs must not become a message of ours. */
static void test_a_note_stays_one_line(void **state)
{
	struct manager m;
	manager_open(&m, true);
	notify_open();
	met_state("waiting");
	met_note("FATAL: no\nSTOPPING=1\r\n\tREADY=1");
	notify_turn(100 * SECOND);
	assert_string_equal(heard(&m), "STATUS=waiting: FATAL: no STOPPING=1   READY=1");
	manager_close(&m);
}

static void test_a_child_says_nothing(void **state)
{
	struct manager m;
	int status;
	manager_open(&m, true);
	notify_open();
	met_state("live");
	pid_t pid = fork();
	if (pid == 0) {
		bool said = notify_ready();
		notify_turn(100 * SECOND);
		notify_stopping();
		_exit(said ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_string_equal(heard(&m), "");
	manager_close(&m);
}

static void test_a_full_socket_is_tried_again(void **state)
{
	struct manager m;
	manager_open(&m, true);
	notify_open();
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd[8], sent = 0;
	memcpy(at.sun_path + 1, m.path + 1, strlen(m.path + 1));
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(m.path));
	/* Several: the receiver's queue may be longer than one sender's buffer. */
	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		fd[i] = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
		while (sendto(fd[i], "x", 1, 0, (struct sockaddr *)&at, size) == 1)
			sent++;
	}
	assert_true(sent > 0);
	assert_false(notify_ready());
	for (; sent > 0; sent--)
		assert_string_equal(heard(&m), "x");
	assert_true(notify_ready());
	assert_string_equal(heard(&m), "READY=1");
	for (size_t i = 0; i < ARRAY_LEN(fd); i++)
		close(fd[i]);
	manager_close(&m);
}

/* ---- what a role's loop says ---- */

struct role {
	struct loop loop;
	int turns;
};

static void tick_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	ret->at_us = now_us; /* at once */
}

/* Turn 2 gets HUP, turn 3 takes it, turn 4 gets TERM and ends. */
static int tick_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	struct role *r = ctx;
	r->turns++;
	if (r->turns == 2)
		raise(SIGHUP);
	if (r->turns == 4)
		raise(SIGTERM);
	return 0;
}

static int tick_end(void *ctx, int64_t now_us, struct rt_err *err)
{
	struct role *r = ctx;
	r->loop.reload = false;
	r->loop.done = r->loop.stop > 0;
	return 0;
}

static void test_a_loop_says_ready_reloading_and_stopping(void **state)
{
	struct manager m;
	struct role r = {0};
	struct rt_err err;
	manager_open(&m, true);
	assert_rc(loop_init(&r.loop, &err), err);
	r.loop.ctx = &r;
	r.loop.before_sleep = tick_end;
	loop_add(&r.loop, (struct loop_source){"tick", &r, tick_prepare, tick_dispatch});
	assert_string_equal(heard(&m), ""); /* not before it has turned */
	assert_rc(loop_run(&r.loop, &err), err);
	assert_string_equal(heard(&m), "READY=1");
	assert_memory_equal(heard(&m), "RELOADING=1\nMONOTONIC_USEC=", 27);
	assert_string_equal(heard(&m), "READY=1");
	assert_string_equal(heard(&m), "STOPPING=1");
	assert_string_equal(heard(&m), "");
	loop_release(&r.loop);
	manager_close(&m);
}

static void idle_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
}

/* A role that waits for nothing but a signal is woken to say that it lives; one that hangs says nothing. */
static void test_an_idle_loop_feeds_the_watchdog_and_a_stuck_one_does_not(void **state)
{
	struct manager m;
	struct rt_err err;
	struct loop l;
	manager_open(&m, true);
	assert_int_equal(setenv("WATCHDOG_USEC", "90000", 1), 0);
	assert_rc(loop_init(&l, &err), err);
	loop_add(&l, (struct loop_source){"idle", NULL, idle_prepare, NULL});
	int64_t until = rt_mono_us() + 300000;
	int fed = 0;
	while (rt_mono_us() < until) {
		assert_rc(loop_turn(&l, &err), err);
		notify_turn(rt_mono_us());
		fed += strcmp(heard(&m), "WATCHDOG=1") == 0;
	}
	assert_true(fed >= 3);
	usleep(100000); /* a turn that hangs */
	assert_string_equal(heard(&m), "");
	loop_release(&l);
	manager_close(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ready_is_said_once_by_either_kind_of_socket),
		cmocka_unit_test(test_a_manager_that_is_not_there_costs_nothing),
		cmocka_unit_test(test_the_watchdog_is_fed_three_times_in_its_time),
		cmocka_unit_test(test_the_watchdog_of_another_process_is_not_ours),
		cmocka_unit_test(test_status_is_said_when_it_changes_and_once_a_second),
		cmocka_unit_test(test_a_note_stays_one_line),
		cmocka_unit_test(test_a_child_says_nothing),
		cmocka_unit_test(test_a_full_socket_is_tried_again),
		cmocka_unit_test(test_a_loop_says_ready_reloading_and_stopping),
		cmocka_unit_test(test_an_idle_loop_feeds_the_watchdog_and_a_stuck_one_does_not),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
