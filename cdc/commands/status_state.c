/* status_state: what the states are called and what they mean; data alone. */
#include "cdc/commands/status.h"

#define STATUS_STATE(id, name, pad, words, means) [STATUS_##id] = {name, words, means},
static const struct {
	const char *name, *words, *means;
} states[] = {STATUS_STATES(STATUS_STATE)};
#undef STATUS_STATE

const char *status_state_name(enum status_state state)
{
	return states[state].name;
}

const char *status_state_words(enum status_state state)
{
	return states[state].words;
}

const char *status_state_means(enum status_state state)
{
	return states[state].means;
}

enum term_ink status_ink(const struct status_view *v)
{
	const enum status_state s = v->state;
	if (s == STATUS_PARKED || s == STATUS_STARTING || s == STATUS_SPILLING)
		return TERM_BUSY;
	if (!v->healthy)
		return TERM_BAD;
	return s == STATUS_CATCHING_UP || s == STATUS_SYNCING ? TERM_BUSY : TERM_GOOD;
}
