/* api_look: what shows how it goes: page, probes, metrics, status, definitions. No warehouse is asked. */
#include "apply/reports/http/assets.h"
#include "apply/reports/http/inner.h"

#define FRESH_US INT64_C(10000000)

void api_page(struct request *r)
{
	static const struct {
		enum route_id id;
		const char *type, *text;
	} files[] = {
		{ROUTE_PAGE, "text/html; charset=utf-8", asset_page},
		{ROUTE_STYLE, "text/css; charset=utf-8", asset_style},
		{ROUTE_SCRIPT, "text/javascript; charset=utf-8", asset_script},
		{ROUTE_DOCUMENT, "application/json", asset_document},
	};
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		if (files[i].id == r->m.route->id)
			reply_bytes(r, 200, files[i].type, slice_str(files[i].text));
}

/* The loop turns, or this would not be said. */
void api_health(struct request *r)
{
	reply_bytes(r, 200, "text/plain; charset=utf-8", slice_str("ok\n"));
}

void api_ready(struct request *r)
{
	const int64_t looked = *r->h->o.looked_us;
	if (looked != 0 && rt_mono_us() - looked < FRESH_US)
		reply_bytes(r, 200, "text/plain; charset=utf-8", slice_str("ready\n"));
	else
		reply_problem(r, 503, "warehouse",
			      "The companion is not at the warehouse's queue of runs.");
}

static void reply_made(struct request *r, int rc, const char *type, struct buf *text,
		       const struct rt_err *err)
{
	if (rc == 0)
		reply_bytes(r, 200, type, buf_slice(text));
	else
		reply_problem(r, 500, "counters", "%s", err->msg);
	buf_release(text);
}

void api_metrics(struct request *r)
{
	const struct reports_outlook *o = r->h->o.outlook;
	struct buf text = BUF_INIT;
	struct rt_err err;
	int rc = o->metrics(o->ctx, &text, &err);
	reply_made(r, rc, "text/plain; version=0.0.4; charset=utf-8", &text, &err);
}

void api_status(struct request *r)
{
	const struct reports_outlook *o = r->h->o.outlook;
	struct buf text = BUF_INIT;
	struct rt_err err;
	int rc = o->status(o->ctx, &text, &err);
	reply_made(r, rc, "application/json", &text, &err);
}

static json_t *report_object(const struct report *d)
{
	json_t *formats = json_array();
	for (int f = 0; f < REPORT_FORMATS; f++)
		if (d->formats[f])
			json_array_append_new(
				formats, json_string(report_format_name((enum report_format)f)));
	return json_pack("{s:s, s:s, s:s, s:o, s:b, s:b}", "id", d->id, "norm", d->norm, "title",
			 d->title != NULL ? d->title : d->id, "formats", formats, "takes_day",
			 d->as_of, "declared_empty", d->model == NULL);
}

void api_reports(struct request *r)
{
	const struct report_pack *p = r->h->o.pack;
	json_t *list = json_array();
	for (size_t i = 0; i < p->count; i++)
		json_array_append_new(list, report_object(&p->report[i]));
	reply_json(r, 200, json_pack("{s:o}", "reports", list));
}
