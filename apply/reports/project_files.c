/* project_files: the folder of a project into memory. Guarantees: bounded, in one order, no links out of it followed unseen. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "apply/reports/build.h"
#include "proto/base/fsio.h"

#define FILES_MAX 5000
#define DEPTH_MAX 16

struct folder {
	struct arena *a;
	const char *root;
	struct models_file *file;
	size_t count, cap;
	struct rt_err *err;
};

static bool ends_in(const char *name, const char *end)
{
	size_t n = strlen(name), k = strlen(end);
	return n > k && strcmp(name + n - k, end) == 0;
}

static bool is_wanted(const char *name)
{
	return ends_in(name, ".sql") || ends_in(name, ".yml") || ends_in(name, ".yaml") ||
	       ends_in(name, ".csv");
}

static int add_file(struct folder *f, const char *path)
{
	char *text;
	size_t len;
	int rc = fs_read_file(arena_printf(f->a, "%s/%s", f->root, path), MODELS_FILE_MAX_BYTES,
			      &text, &len, f->err);
	if (rc != 0)
		return rc;
	if (f->count == FILES_MAX) {
		free(text);
		return rt_fail(f->err, ERR_PERMANENT, "%s: more than %d files", f->root, FILES_MAX);
	}
	if (f->count == f->cap) {
		size_t cap = f->cap == 0 ? 64 : f->cap * 2;
		struct models_file *grown = arena_alloc(f->a, cap * sizeof(*grown));
		if (f->count > 0)
			memcpy(grown, f->file, f->count * sizeof(*grown));
		f->file = grown;
		f->cap = cap;
	}
	f->file[f->count++] = (struct models_file){path, slice_str(arena_strndup(f->a, text, len))};
	f->file[f->count - 1].text.len = len;
	free(text);
	return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_entry(struct folder *f, const char *path, const char *name, int depth);

static int add_folder(struct folder *f, const char *path, int depth)
{
	struct dirent **entry;
	const char *full = arena_printf(f->a, "%s/%s", f->root, path);
	if (depth > DEPTH_MAX)
		return rt_fail(f->err, ERR_PERMANENT, "%s: folders are nested too deep", full);
	int n = scandir(full, &entry, NULL, by_name), rc = 0;
	if (n < 0 && errno == ENOENT && depth == 0) /* a project without seeds */
		return 0;
	if (n < 0)
		return rt_fail_errno(f->err, ERR_PERMANENT, "%s", full);
	for (int i = 0; i < n; i++) {
		if (rc == 0 && entry[i]->d_name[0] != '.')
			rc = add_entry(f, path, entry[i]->d_name, depth);
		free(entry[i]);
	}
	free(entry);
	return rc;
}

static int add_entry(struct folder *f, const char *path, const char *name, int depth)
{
	struct stat st;
	const char *inner = arena_printf(f->a, "%s/%s", path, name);
	if (stat(arena_printf(f->a, "%s/%s", f->root, inner), &st) != 0)
		return rt_fail_errno(f->err, ERR_PERMANENT, "%s/%s", f->root, inner);
	if (S_ISDIR(st.st_mode))
		return add_folder(f, inner, depth + 1);
	return S_ISREG(st.st_mode) && is_wanted(name) ? add_file(f, inner) : 0;
}

int build_read_project(struct arena *a, const char *path, struct models **ret, struct rt_err *err)
{
	struct folder f = {.a = a, .root = path, .err = err};
	struct stat st;
	if (path[0] == '\0')
		return rt_fail(err, ERR_PERMANENT, "models.path is not set: there are no models");
	if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
		return rt_fail(err, ERR_PERMANENT, "models.path: %s is no folder", path);
	int rc = 0;
	if (stat(arena_printf(a, "%s/dbt_project.yml", path), &st) == 0)
		rc = add_file(&f, "dbt_project.yml");
	if (rc == 0)
		rc = add_folder(&f, "models", 0);
	if (rc == 0)
		rc = add_folder(&f, "seeds", 0);
	return rc == 0 ? models_read(a, f.file, f.count, ret, err) : rc;
}
