/* companion: roles and rights. Pure. */
#include "cdc/commands/companion.h"

const struct companion_right companion_rights[] = {
	/* what it looks at */
	{"migration", "SELECT"},
	{"ledger", "SELECT"},
	{"relation", "SELECT"},
	{"written", "SELECT"},
	{"repair", "SELECT"},
	{"quarantine", "SELECT"},
	{"quarantine_audit", "SELECT"},
	/* what it writes */
	{"fence_seen", "SELECT, DELETE"},
	{"report_companion", "SELECT, INSERT, UPDATE"},
	{"report_pack", "SELECT, INSERT"},
	{"report_run", "SELECT, INSERT, UPDATE"},
	{"report_file", "SELECT, INSERT"},
	{"report_schedule", "SELECT, INSERT, UPDATE"},
	{"model_run", "SELECT, INSERT, UPDATE, DELETE"},
	{"model", "SELECT, INSERT, UPDATE, DELETE"},
	{"model_test", "SELECT, INSERT, DELETE"},
	{"model_publication", "SELECT, INSERT, DELETE"},
};
const size_t companion_right_count = ARRAY_LEN(companion_rights);

const char *conninfo_value(struct arena *a, const char *conninfo, const char *key,
			   const char *otherwise)
{
	const char *found = otherwise;
	PQconninfoOption *all = PQconninfoParse(conninfo, NULL);
	for (PQconninfoOption *o = all; o != NULL && o->keyword != NULL; o++)
		if (strcmp(o->keyword, key) == 0 && o->val != NULL && o->val[0] != '\0')
			found = arena_strdup(a, o->val);
	PQconninfoFree(all);
	return found;
}

static const char *other_user(struct arena *a, const char *mine, const char *theirs)
{
	const char *user = conninfo_value(a, mine, "user", "");
	if (user[0] == '\0' || strcmp(user, conninfo_value(a, theirs, "user", "")) == 0)
		return NULL;
	return user;
}

const char *capture_role(struct arena *a, const struct settings *s)
{
	return other_user(a, s->capture.connect, s->core.connect);
}

const char *companion_role(struct arena *a, const struct settings *s)
{
	if (s->reports.definitions[0] == '\0')
		return NULL;
	return other_user(a, s->reports.connect, s->warehouse.connect);
}

const char *companion_core_role(struct arena *a, const struct settings *s)
{
	if (s->reports.definitions[0] == '\0')
		return NULL;
	return other_user(a, s->reports.core_connect, s->core.connect);
}
