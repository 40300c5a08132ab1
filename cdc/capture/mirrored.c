/* mirrored: guarantees that a shape never goes into the spool with less than the core knew of it. */
#include "cdc/capture/mirrored.h"

#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/shape.h"

static bool is_mirrored(const struct settings *settings, const struct schema *s)
{
	return settings_lists_table(&settings->mirrors.tables, s->nspname, s->relname);
}

static int need_session(struct mirrored *m, struct rt_err *err)
{
	char name[80];
	snprintf(name, sizeof(name), "rolag capture %s types", m->settings->pipeline);
	const struct pgc_options o = {
		.what = "core", .conninfo = m->settings->capture.connect, .application_name = name};
	if (m->conn != NULL)
		return 0;
	int rc = pgc_connect(&m->conn, &o, err);
	if (rc == 0) /* defaults from before a column was there are stored as text */
		rc = pgc_exec(m->conn, NULL, err,
			      "SET search_path = pg_catalog; SET DateStyle = 'ISO'; "
			      "SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; "
			      "SET extra_float_digits = 1; SET bytea_output = 'hex'; "
			      "SET statement_timeout = '10s'; SET jit = off; SET "
			      "idle_session_timeout = 0");
	return rc;
}

int mirrored_complete(struct mirrored *m, struct arena *a, struct schema *s, struct rt_err *err)
{
	if (!is_mirrored(m->settings, s))
		return 0;
	int rc = need_session(m, err);
	FAILPOINT(MIRRORED_ASK);
	if (rc == 0)
		rc = shape_complete(m->conn, a, s, err);
	if (rc != 0) {
		mirrored_close(m);
		err->code = ERR_RETRY; /* it has sent us changes a moment ago */
	}
	return rc != 0 ? err->code : 0;
}

void mirrored_close(struct mirrored *m)
{
	pgc_close(m->conn);
	m->conn = NULL;
}

int mirrored_publications(const struct settings *s, struct arena *a, const char **ret)
{
	int n = 0;
	ret[n++] = arena_printf(a, SETTINGS_INSERTS_FMT, s->pipeline);
	if (s->mirrors.tables.count > s->mirrors.append_only.count)
		ret[n++] = arena_printf(a, SETTINGS_CHANGES_FMT, s->pipeline);
	return n;
}

int mirrored_wants(const struct settings *s, const struct capture_source *source, int count,
		   struct arena *a, const struct published_want **ret)
{
	const char *inserts = arena_printf(a, SETTINGS_INSERTS_FMT, s->pipeline);
	const char *changes = arena_printf(a, SETTINGS_CHANGES_FMT, s->pipeline);
	int n = (int)s->mirrors.tables.count;
	struct published_want *want = arena_zalloc(a, ((size_t)(n + count) + 1) * sizeof(*want));
	for (int i = 0; i < n; i++) {
		const char *name = s->mirrors.tables.item[i], *dot = strchr(name, '.');
		want[i].nspname =
			dot != NULL ? arena_strndup(a, name, (size_t)(dot - name)) : "public";
		want[i].relname = dot != NULL ? dot + 1 : name;
		want[i].changes = !settings_lists_table(&s->mirrors.append_only, want[i].nspname,
							want[i].relname);
		want[i].publication = want[i].changes ? changes : inserts;
	}
	for (int i = 0; i < count; i++)
		want[n + i] = (struct published_want){.publication = inserts,
						      .nspname = source[i].nspname,
						      .relname = source[i].relname};
	*ret = want;
	return n + count;
}
