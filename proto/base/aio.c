#include "proto/base/aio.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "proto/base/fsio.h"

void aio_sync_open(struct aio_sync *s)
{
	*s = (struct aio_sync){.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (s->event_fd >= 0 && io_setup(1, &s->context) != 0) {
		s->context = NULL;
		close(s->event_fd);
		s->event_fd = -1;
	}
}

void aio_sync_close(struct aio_sync *s)
{
	struct rt_err ignored;
	if (s->event_fd < 0)
		return;
	if (aio_sync_end(s, true, "", &ignored) < 0) {
		/* nobody relies on it any more */
	}
	io_destroy(s->context);
	close(s->event_fd);
	s->event_fd = -1;
}

static int failed(int error, const char *path, struct rt_err *err)
{
	errno = error;
	return rt_fail_errno(err, ERR_SYSTEM, "cannot sync %s to disk", path);
}

int aio_sync_begin(struct aio_sync *s, int fd, const char *path, struct rt_err *err)
{
	struct iocb *request = &s->request;
	RT_ASSERT(!s->busy);
	int rc = -ENOSYS;
	if (s->context != NULL) {
		io_prep_fdsync(request, fd);
		io_set_eventfd(request, s->event_fd);
		rc = io_submit(s->context, 1, &request);
	}
	/* Not on this file system, or not now. */
	s->at_once = rc == -ENOSYS || rc == -EINVAL || rc == -EAGAIN;
	if (s->at_once) {
		if ((rc = fs_sync_data(fd, path, err)) != 0)
			return rc;
	} else if (rc != 1) {
		return failed(-rc, path, err);
	}
	s->busy = true;
	return 0;
}

int aio_sync_end(struct aio_sync *s, bool wait, const char *path, struct rt_err *err)
{
	struct io_event done;
	uint64_t count;
	struct timespec none = {0, 0};
	int rc;
	if (!s->busy)
		return 0;
	if (!s->at_once) {
		do
			rc = io_getevents(s->context, wait ? 1 : 0, 1, &done, wait ? NULL : &none);
		while (wait && rc == -EINTR);
		if (rc == 0 || rc == -EINTR)
			return 0;
		s->busy = false;
		if (read(s->event_fd, &count, sizeof(count)) < 0) {
			/* it only wakes the loop */
		}
		if (rc < 0 || (long)done.res < 0)
			return failed(rc < 0 ? -rc : (int)-(long)done.res, path, err);
	}
	s->busy = false;
	return 1;
}
