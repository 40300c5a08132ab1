/*
 * spool_internal: the files of a spool as its writer, its reader and the
 * offline commands see them: names, the list of segments with the cuts of
 * their generations, and one segment read frame by frame.
 */
#ifndef PROTO_SPOOL_INTERNAL_H
#define PROTO_SPOOL_INTERNAL_H

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/frame.h"
#include "proto/record.h"
#include "proto/spool.h"

#define SPOOL_NAME_BYTES 30 /* "GGGGGGGG-SSSSSSSSSSSSSSSS.seg" and NUL */

struct segment_entry {
	uint32_t generation;
	struct lsn start;
	/* Least start of all newer generations; what ends beyond it is void. UINT64_MAX: none. */
	struct lsn cut;
	uint64_t bytes;
	int64_t modified_us; /* last write, µs since 1970 */
	struct lsn gap_from; /* as its first frame says; known to the writer only */
};

/* True when all of the segment is void. */
static inline bool segment_is_void(const struct segment_entry *e)
{
	return lsn_le(e->cut, e->start);
}

/* Empties b; one huge row must not pin its memory for ever. */
static inline void spool_buf_clear(struct buf *b)
{
	b->len = 0;
	if (b->cap > (size_t)16 << 20)
		buf_release(b);
}

/* In reading order: by generation, then start. Zero it before first use. */
struct segment_list {
	struct segment_entry *entry;
	size_t count;
	size_t cap;
};

void segment_name(char ret[SPOOL_NAME_BYTES], uint32_t generation, struct lsn start);
/* Fills *list anew (cuts set); a directory that is not there has no segments. ERR_SYSTEM. */
int segment_list_read(struct segment_list *list, const char *dir, struct rt_err *err) RT_MUSTCHECK;
void segment_list_add(struct segment_list *list, const struct segment_entry *e);
void segment_list_release(struct segment_list *list);
/* The first entry that is not void and stands after (generation, start); NULL: none. */
const struct segment_entry *segment_list_after(const struct segment_list *list, uint32_t generation,
					       struct lsn start);

/* A segment open for reading. */
struct segment_file {
	int fd;
	char *path;
	uint64_t first_bytes; /* where the second frame begins */
	struct record_segment is;
	struct arena arena; /* is's strings */
	struct buf window;  /* bytes of the file from window_at on */
	uint64_t window_at;
};

/*
 * 1: open, its SEGMENT frame read. 0: no such file (it was let go of).
 * ERR_PERMANENT: damaged, not what its name says, or written by a newer
 * program; ERR_SYSTEM. After 0 and errors there is nothing to close.
 */
int segment_open(struct segment_file *f, const char *dir, uint32_t generation, struct lsn start,
		 struct rt_err *err) RT_MUSTCHECK;
/* Accepts a zeroed one. */
void segment_close(struct segment_file *f);
/* ERR_PERMANENT when the segment belongs to another core, timeline, pipeline or slot than id (0 and NULL there: any). */
int segment_check_identity(const struct segment_file *f, const struct spool_identity *id,
			   struct rt_err *err) RT_MUSTCHECK;

/* What stands at an offset of a segment. */
struct segment_look {
	enum frame_state state;
	struct frame frame; /* where state is FRAME_VALID; its bytes live until the next look */
	bool at_end;	    /* FRAME_SHORT: the file ends exactly here */
};

/* The position that the segment has reached: the end of what is valid in it. 1: *ret is set; 0: no such segment. */
int segment_end(const char *dir, const struct segment_entry *e, struct lsn *ret,
		struct rt_err *err) RT_MUSTCHECK;
/* Looks at offset. FRAME_NEWER is an error here (ERR_PERMANENT). */
int segment_look(struct segment_file *f, uint64_t offset, struct segment_look *ret,
		 struct rt_err *err) RT_MUSTCHECK;
/* The file's size now. */
int segment_bytes(const struct segment_file *f, uint64_t *ret, struct rt_err *err) RT_MUSTCHECK;
/* Drops what was read ahead, so that the next look asks the file. */
void segment_forget(struct segment_file *f);
/*
 * Where no valid frame begins at offset: 1 when a valid frame further on
 * proves that this place was once whole (FORMAT.md, "Where a segment stops").
 */
int segment_is_damaged(struct segment_file *f, uint64_t offset, struct rt_err *err) RT_MUSTCHECK;
/* Sets err: damaged at offset, naming the file. */
int segment_damage(const struct segment_file *f, uint64_t offset, const char *what,
		   struct rt_err *err);

/* For offline commands: begins with the first segment there is, whatever `from` was. Before the first read. */
void spool_reader_from_first(struct spool_reader *r);

/* From each transaction only BEGIN and COMMIT are handed out. Before the first read. */
void spool_reader_heads_only(struct spool_reader *r);

/* Schemas by hash, each with memory of its own. */
struct schema_table;
struct schema_table *schema_table_new(void);
void schema_table_free(struct schema_table *t);
/* Takes up all schemas of a SCHEMAS frame's payload. False when one is damaged. */
bool schema_table_add(struct schema_table *t, struct slice payload) RT_MUSTCHECK;
/* A record_find_schema. */
const struct schema *schema_table_find(void *table, uint64_t hash);

#endif
