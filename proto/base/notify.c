/*
 * notify: datagrams to the service manager. Guarantees: never blocks, never
 * fails its caller, and says nothing for a child of the process that opened it.
 */
#include "proto/base/notify.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/base/metrics.h"

#define STATUS_US 1000000 /* between two words about the state */

static struct {
	int fd; /* -1: there is no manager */
	pid_t pid;
	bool ready; /* said, and still true */
	bool stopping;
	int64_t watchdog_us; /* between two signs of life; 0: none is wanted */
	int64_t watchdog_at_us, status_at_us;
	char status[512]; /* as last said */
} mgr = {.fd = -1};

/* The number in an environment variable, 0 where it is none. */
static int64_t number_of(const char *name)
{
	const char *text = getenv(name);
	char *end;
	if (text == NULL || *text < '0' || *text > '9')
		return 0;
	long long n = strtoll(text, &end, 10);
	return *end == '\0' ? n : 0;
}

/* A connected socket, or -1. "@name" is in the abstract name space. */
static int connect_to(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(to.sun_path))
		return -1;
	memcpy(to.sun_path, path, len);
	if (path[0] == '@')
		to.sun_path[0] = '\0';
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&to, size) != 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

void notify_open(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	int64_t pid = number_of("WATCHDOG_PID"), watchdog = number_of("WATCHDOG_USEC");
	notify_close();
	mgr.fd = path != NULL ? connect_to(path) : -1;
	mgr.pid = getpid();
	mgr.ready = mgr.stopping = false;
	mgr.status[0] = '\0';
	mgr.status_at_us = mgr.watchdog_at_us = 0;
	/* A third of what is allowed: one turn may be late. */
	mgr.watchdog_us = pid == 0 || pid == (int64_t)mgr.pid ? watchdog / 3 : 0;
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void notify_close(void)
{
	if (mgr.fd >= 0)
		close(mgr.fd);
	mgr.fd = -1;
}

static bool is_ours(void)
{
	return mgr.fd >= 0 && mgr.pid == getpid();
}

static bool say(const char *text)
{
	return send(mgr.fd, text, strlen(text), MSG_NOSIGNAL) >= 0;
}

bool notify_ready(void)
{
	if (!is_ours() || mgr.ready)
		return true;
	mgr.ready = say("READY=1");
	return mgr.ready;
}

void notify_reloading(int64_t now_us)
{
	char text[64];
	if (!is_ours() || !mgr.ready)
		return;
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)now_us);
	mgr.ready = !say(text); /* to be said again, by whoever ends the turn */
}

void notify_stopping(void)
{
	if (is_ours() && !mgr.stopping)
		mgr.stopping = say("STOPPING=1");
}

/* "state: note", in one line: the protocol would take a second one for another message. */
static void print_status(char *ret, size_t size)
{
	const char *note = met_note_now();
	snprintf(ret, size, "STATUS=%s%s%s", met_state_now(), note[0] != '\0' ? ": " : "", note);
	for (; *ret != '\0'; ret++)
		if ((unsigned char)*ret < ' ')
			*ret = ' ';
}

void notify_turn(int64_t now_us)
{
	char status[sizeof(mgr.status)];
	if (!is_ours())
		return;
	if (mgr.watchdog_us > 0 && now_us >= mgr.watchdog_at_us && say("WATCHDOG=1"))
		mgr.watchdog_at_us = now_us + mgr.watchdog_us;
	if (now_us < mgr.status_at_us || met_state_now()[0] == '\0')
		return;
	print_status(status, sizeof(status));
	if (strcmp(status, mgr.status) == 0 || !say(status))
		return;
	memcpy(mgr.status, status, sizeof(status));
	mgr.status_at_us = now_us + STATUS_US;
}

int64_t notify_due(void)
{
	char status[sizeof(mgr.status)];
	if (mgr.fd < 0)
		return NOTIFY_NEVER;
	int64_t due = mgr.watchdog_us > 0 ? mgr.watchdog_at_us : NOTIFY_NEVER;
	print_status(status, sizeof(status));
	return met_state_now()[0] != '\0' && strcmp(status, mgr.status) != 0
		       ? RT_MIN(due, mgr.status_at_us)
		       : due;
}
