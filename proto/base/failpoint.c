/* failpoint: see failpoint.h. Guarantees: what fires says so in the log first; what is to fire once fires once. */
#include "proto/base/failpoint.h"

#ifdef ROLAG_FAILPOINTS

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/log.h"
#include "proto/base/yaml.h"

enum action {
	ACTION_NONE,
	ACTION_ERRNO,
	ACTION_KILL,
	ACTION_DISCONNECT,
	ACTION_SHORT,
	ACTION_DELAY
};

static const struct {
	const char *name;
	int can;
} points[FP_COUNT] = {
#define FAILPOINT_DEF(id, name, can, help) [FP_##id] = {name, can},
#include "proto/base/failpoints.def"
#undef FAILPOINT_DEF
};

static const struct {
	const char *name;
	int number;
} errnos[] = {
	{"EACCES", EACCES}, {"EAGAIN", EAGAIN}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR},
	{"EIO", EIO},	    {"EMFILE", EMFILE}, {"ENOENT", ENOENT}, {"ENOMEM", ENOMEM},
	{"ENOSPC", ENOSPC}, {"EPERM", EPERM},	{"EROFS", EROFS},   {"ETIMEDOUT", ETIMEDOUT},
};

/* What is to happen, by point. Shared with children, so that nothing fires again in the next of them. */
static struct plan {
	enum action action;
	int value;   /* errno, or milliseconds */
	uint64_t at; /* the hit that it happens at … */
	bool on;     /* … and each later one */
	uint64_t hits;
	char text[32]; /* the action as it was given */
} * plan;

/* ---- what the environment says ---- */

static int find_point(const char *name, enum fp_id *ret, struct rt_err *err)
{
	const char *names[FP_COUNT];
	for (int i = 0; i < FP_COUNT; i++) {
		names[i] = points[i].name;
		if (strcmp(points[i].name, name) == 0) {
			*ret = (enum fp_id)i;
			return 0;
		}
	}
	const char *near = yaml_nearest(name, names, FP_COUNT);
	return rt_fail(err, ERR_USAGE, "ROLAG_FAILPOINTS: unknown failpoint \"%s\"%s%s", name,
		       near != NULL ? "; did you mean " : "", near != NULL ? near : "");
}

static bool read_number(const char *text, uint64_t *ret)
{
	char *end;
	if (*text < '0' || *text > '9')
		return false;
	*ret = strtoull(text, &end, 10);
	return *end == '\0';
}

static bool read_action(const char *text, enum action *ret, int *ret_value)
{
	uint64_t ms;
	if (strcmp(text, "kill") == 0) {
		*ret = ACTION_KILL;
	} else if (strcmp(text, "disconnect") == 0) {
		*ret = ACTION_DISCONNECT;
	} else if (strcmp(text, "short") == 0) {
		*ret = ACTION_SHORT;
	} else if (strncmp(text, "delay:", 6) == 0 && read_number(text + 6, &ms) && ms <= 600000) {
		*ret = ACTION_DELAY;
		*ret_value = (int)ms;
	} else {
		for (size_t i = 0; i < ARRAY_LEN(errnos); i++)
			if (strcmp(errnos[i].name, text) == 0) {
				*ret = ACTION_ERRNO;
				*ret_value = errnos[i].number;
				return true;
			}
		return false;
	}
	return true;
}

static bool is_possible(enum fp_id id, enum action action)
{
	static const int needs[] = {[ACTION_ERRNO] = FP_ERRNO,
				    [ACTION_DISCONNECT] = FP_FD,
				    [ACTION_SHORT] = FP_SHORT,
				    [ACTION_DELAY] = 0};
	return needs[action] == 0 || (points[id].can & needs[action]) != 0;
}

/* One "name=action[@hit[+]]", which is cut into its parts. */
static int configure_one(char *text, struct rt_err *err)
{
	enum fp_id id;
	enum action action;
	int value = 0;
	uint64_t at = 1;
	char *is = strchr(text, '=');
	char *hit = strchr(text, '@');
	if (is == NULL || (hit != NULL && hit < is))
		return rt_fail(err, ERR_USAGE,
			       "ROLAG_FAILPOINTS: \"%s\" is not name=action[@hit[+]]", text);
	*is = '\0';
	if (hit != NULL)
		*hit = '\0';
	size_t last = hit != NULL && hit[1] != '\0' ? strlen(hit + 1) : 0;
	bool on = last > 0 && hit[last] == '+';
	if (on)
		hit[last] = '\0';
	int rc = find_point(text, &id, err);
	if (rc != 0)
		return rc;
	if (!read_action(is + 1, &action, &value))
		return rt_fail(err, ERR_USAGE,
			       "ROLAG_FAILPOINTS: unknown action \"%s\" of %s (an errno's name, "
			       "kill, disconnect, short, delay:MS)",
			       is + 1, text);
	if (!is_possible(id, action))
		return rt_fail(err, ERR_USAGE, "ROLAG_FAILPOINTS: %s cannot do %s", text, is + 1);
	if (hit != NULL && (!read_number(hit + 1, &at) || at == 0))
		return rt_fail(err, ERR_USAGE,
			       "ROLAG_FAILPOINTS: \"%s\" of %s is not a hit's number", hit + 1,
			       text);
	plan[id].action = action;
	plan[id].value = value;
	plan[id].at = at;
	plan[id].on = on;
	plan[id].hits = 0;
	snprintf(plan[id].text, sizeof(plan[id].text), "%s", is + 1);
	return 0;
}

int fp_configure(const char *text, struct rt_err *err)
{
	int rc = 0;
	plan = mmap(NULL, FP_COUNT * sizeof(*plan), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (plan == MAP_FAILED)
		return rt_fail_errno(err, ERR_SYSTEM, "no memory for failpoints");
	char *copy = rt_strdup(text != NULL ? text : ""), *rest = copy;
	for (char *one; rc == 0 && (one = strsep(&rest, ";")) != NULL;)
		if (*one != '\0')
			rc = configure_one(one, err);
	free(copy);
	return rc;
}

/* ---- passing a point ---- */

/* True when it happens now. */
static bool fires(enum fp_id id)
{
	if (plan == NULL || plan[id].action == ACTION_NONE)
		return false;
	uint64_t hit = ++plan[id].hits;
	if (plan[id].on ? hit < plan[id].at : hit != plan[id].at)
		return false;
	log_warn("failpoint fired", "name=%s action=%s hit=%llu", points[id].name, plan[id].text,
		 (unsigned long long)plan[id].hits);
	return true;
}

bool fp_hit(enum fp_id id, int fd)
{
	if (!fires(id))
		return false;
	struct timespec ts = {plan[id].value / 1000, plan[id].value % 1000 * 1000000L};
	switch (plan[id].action) {
	case ACTION_KILL:
		kill(getpid(), SIGKILL);
		pause();
		break;
	case ACTION_DISCONNECT:
		shutdown(fd, SHUT_RDWR);
		break;
	case ACTION_DELAY:
		nanosleep(&ts, NULL);
		break;
	case ACTION_ERRNO:
		errno = plan[id].value;
		return true;
	case ACTION_NONE:
	case ACTION_SHORT:
		break;
	}
	return false;
}

int fp_error(enum fp_id id, struct rt_err *err)
{
	return fp_hit(id, -1) ? rt_fail_errno(err, ERR_SYSTEM, "failpoint %s", points[id].name) : 0;
}

size_t fp_bytes(enum fp_id id, size_t bytes)
{
	(void)fp_hit(id, -1);
	bool now = plan != NULL && plan[id].action == ACTION_SHORT && plan[id].hits == plan[id].at;
	return now && bytes > 1 ? bytes / 2 : bytes;
}

#endif
