/* check_http: what `rolag check` says of http.listen and http.tokens. */
#include "apply/reports/http/http.h"
#include "cdc/commands/check.h"

void check_http(struct check *k)
{
	const struct settings *s = &k->s;
	struct rt_err err;
	size_t tokens;
	bool loopback;
	if (s->http.listen[0] == '\0')
		return;
	if (http_check(s, &tokens, &loopback, &err) != 0) {
		check_error(k, "http", &err);
		return;
	}
	if (s->reports.definitions[0] == '\0')
		check_warn(k, "reports.definitions",
			   "http: there is no companion that would listen on %s", s->http.listen);
	else if (tokens == 0)
		check_warn(k, "rolag report token NAME, and http.tokens",
			   "http: %s lets nobody in, since there is no token", s->http.listen);
	else if (!loopback)
		check_warn(k, "a proxy with TLS in front, or a network that nobody else listens to",
			   "http: %s is reached by others, and tokens pass it in the clear",
			   s->http.listen);
	else
		check_ok(k, "http: %s, for %zu tokens", s->http.listen, tokens);
}
