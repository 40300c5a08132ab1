/* run_json: by jansson. Guarantees: every key is there, whatever is known of the run. */
#include "apply/reports/run_json.h"

static json_t *text_or_null(const char *s)
{
	return s != NULL ? json_string(s) : json_null();
}

json_t *run_json(const struct run *r)
{
	json_t *reports = json_array();
	for (size_t i = 0; i < r->report_count; i++)
		json_array_append_new(reports, json_string(r->report[i]));
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:o, s:s, s:b, s:b, s:b, s:i}", "id", r->id,
			      "type", r->type, "state", r->state, "client_state", r->client_state,
			      "reports", reports, "requester", r->requester, "allow_stale",
			      r->allow_stale, "accept_quarantine", r->accept_quarantine, "kept",
			      r->kept, "failures", r->failures);
	const struct {
		const char *name, *value;
	} texts[] = {{"as_of", r->as_of},
		     {"schedule", r->schedule},
		     {"due_at", r->due_at},
		     {"served_by", r->served_by},
		     {"requested_at", r->requested_at},
		     {"waiting_at", r->waiting_at},
		     {"building_at", r->building_at},
		     {"writing_at", r->writing_at},
		     {"ended_at", r->ended_at},
		     {"fence_lsn", r->fence_lsn},
		     {"stale", r->stale},
		     {"watermark_lsn", r->watermark_lsn},
		     {"watermark_at", r->watermark_at},
		     {"reason", r->reason}};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		json_object_set_new(o, texts[i].name, text_or_null(texts[i].value));
	return o;
}

json_t *run_file_json(const struct run_file *f)
{
	return json_pack("{s:s, s:s, s:o, s:I, s:I, s:o, s:o, s:o}", "report", f->report, "format",
			 report_format_name(f->format), "path", text_or_null(f->path), "rows",
			 (json_int_t)f->rows, "bytes", (json_int_t)f->bytes, "sha256",
			 text_or_null(f->sha256), "omitted", text_or_null(f->omitted), "invalid",
			 text_or_null(f->invalid));
}
