/*
 * spool_applied: the file `applied`. Guarantees: a reader gets a position that
 * was written as a whole, or none; a torn write costs one position at most.
 */
#include "proto/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "proto/base/buf.h"
#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"

#include <xxhash.h>

#define APPLIED_MAGIC	0x524C4150u /* "RLAP" */
#define APPLIED_VERSION 2u
#define SLOT_BYTES	56
#define SLOT_BYTES_1	48  /* of version 1, which has no keep */
#define SLOT_STRIDE	512 /* a sector each */

struct applied_file {
	int fd;
	char *path;
	uint64_t sequence; /* of the newest slot */
	unsigned next;	   /* the slot to write */
};

struct slot {
	uint64_t sequence;
	struct applied_position position;
};

static void slot_encode(uint8_t out[SLOT_BYTES], const struct slot *s)
{
	be32_put(out + 8, APPLIED_MAGIC);
	be32_put(out + 12, APPLIED_VERSION);
	be64_put(out + 16, s->sequence);
	be64_put(out + 24, s->position.applied.v);
	be32_put(out + 32, s->position.timeline);
	be32_put(out + 36, 0);
	be64_put(out + 40, (uint64_t)s->position.at_us);
	be64_put(out + 48, s->position.keep.v);
	be64_put(out, XXH3_64bits(out + 8, SLOT_BYTES - 8));
}

/* in holds bytes of a slot, as many as the file has of it. */
static bool slot_decode(const uint8_t in[SLOT_BYTES], size_t bytes, struct slot *ret)
{
	if (bytes < SLOT_BYTES_1 || be32_get(in + 8) != APPLIED_MAGIC)
		return false;
	uint32_t version = be32_get(in + 12);
	size_t used = version == 1 ? SLOT_BYTES_1 : SLOT_BYTES;
	if (version < 1 || version > APPLIED_VERSION || bytes < used ||
	    be64_get(in) != XXH3_64bits(in + 8, used - 8))
		return false;
	*ret = (struct slot){
		.sequence = be64_get(in + 16),
		.position = {.applied = {be64_get(in + 24)},
			     .timeline = be32_get(in + 32),
			     .at_us = (int64_t)be64_get(in + 40),
			     .keep = {version == 1 ? 0 : be64_get(in + 48)}},
	};
	return true;
}

/* How many bytes of the slot the file has (all, a slot of version 1, or 0); negative: cannot read. */
static int slot_read(int fd, unsigned i, uint8_t in[SLOT_BYTES], const char *path,
		     struct rt_err *err)
{
	static const size_t sizes[] = {SLOT_BYTES, SLOT_BYTES_1};
	for (size_t n = 0; n < ARRAY_LEN(sizes); n++) {
		int rc = fs_read_at(fd, in, sizes[n], (uint64_t)i * SLOT_STRIDE, path, err);
		if (rc != 0)
			return rc < 0 ? rc : (int)sizes[n];
	}
	return 0;
}

/* 1: *ret is the newest valid slot, in place *ret_which; 0: none. */
static int read_newest(int fd, const char *path, struct slot *ret, unsigned *ret_which,
		       struct rt_err *err)
{
	int found = 0;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t in[SLOT_BYTES];
		struct slot s;
		int bytes = slot_read(fd, i, in, path, err);
		if (bytes < 0)
			return bytes;
		if (!slot_decode(in, (size_t)bytes, &s) || (found && s.sequence < ret->sequence))
			continue;
		*ret = s;
		*ret_which = i;
		found = 1;
	}
	return found;
}

int applied_open(struct applied_file **ret, const char *dir, struct rt_err *err)
{
	struct slot newest = {0};
	unsigned which = 1;
	int rc = fs_mkdirs(dir, 0700, err);
	if (rc != 0)
		return rc;
	struct applied_file *f = rt_calloc(1, sizeof(*f));
	f->path = rt_sprintf("%s/applied", dir);
	f->fd = FP_FAILS(APPLIED_OPEN) ? -1 : open(f->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (f->fd < 0) {
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot open %s", f->path);
		goto out;
	}
	if ((rc = read_newest(f->fd, f->path, &newest, &which, err)) < 0)
		goto out;
	f->sequence = newest.sequence;
	f->next = 1 - which;
	*ret = f;
	return 0;
out:
	applied_close(f);
	return rc;
}

int applied_write(struct applied_file *f, const struct applied_position *p, struct rt_err *err)
{
	uint8_t out[SLOT_BYTES];
	const struct slot s = {.sequence = f->sequence + 1, .position = *p};
	slot_encode(out, &s);
	ssize_t n;
	do
		n = FP_FAILS(APPLIED_WRITE)
			    ? -1
			    : pwrite(f->fd, out, FP_BYTES(APPLIED_WRITE_SHORT, sizeof(out)),
				     (off_t)f->next * SLOT_STRIDE);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot write %s", f->path);
	if (n !=
	    (ssize_t)sizeof(out)) /* the other slot still stands; the next write tries here again */
		return rt_fail(err, ERR_SYSTEM, "cannot write %s: wrote %zd bytes", f->path, n);
	f->sequence = s.sequence;
	f->next = 1 - f->next;
	return 0;
}

void applied_close(struct applied_file *f)
{
	if (f == NULL)
		return;
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	free(f);
}

int applied_read(const char *dir, struct applied_position *ret, struct rt_err *err)
{
	struct slot newest;
	unsigned which;
	char *path = rt_sprintf("%s/applied", dir);
	int rc = 0;
	int fd = FP_FAILS(APPLIED_OPEN_READ) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (errno != ENOENT)
			rc = rt_fail_errno(err, ERR_SYSTEM, "cannot open %s", path);
		goto out;
	}
	rc = read_newest(fd, path, &newest, &which, err);
	if (rc == 1)
		*ret = newest.position;
	close(fd);
out:
	free(path);
	return rc;
}
