/* config: the configuration's YAML. What is read has its derived names; what is not has a reason with the file's name. */
#include "proto/settings.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena a;
	struct settings s;
	struct rt_err err;
	arena_init(&a, 16384);
	if (settings_parse("fuzz.yaml", slice_of(data, size), &a, &s, &err) == 0) {
		RT_ASSERT(s.pipeline[0] != '\0' && strlen(s.pipeline) <= SETTINGS_PIPELINE_MAX);
		RT_ASSERT(s.core.slot[0] != '\0' && strlen(s.core.slot) <= 63);
		RT_ASSERT(s.spool.dir[0] != '\0' && s.state_dir[0] == '/');
		for (size_t i = 0; i < s.rollups.land.count; i++)
			RT_ASSERT(s.rollups.land.item[i] != NULL);
	} else {
		RT_ASSERT(err.code == ERR_PERMANENT && strncmp(err.msg, "fuzz.yaml:", 10) == 0);
	}
	arena_release(&a);
	return 0;
}
