/* driver: runs a fuzz target over files, so that the corpora are unit tests that need no clang. */
#include "proto/base/fsio.h"
#include "tests/fuzz/fuzz.h"

int main(int argc, char **argv)
{
	struct rt_err err;
	for (int i = 1; i < argc; i++) {
		char *text;
		size_t len;
		if (fs_read_file(argv[i], 1 << 20, &text, &len, &err) != 0) {
			fprintf(stderr, "%s\n", err.msg);
			return EXIT_FINDING;
		}
		fprintf(stderr, "%s\n",
			argv[i]); /* the last line before a report names the input */
		uint8_t *exact = rt_malloc(len);
		if (len > 0)
			memcpy(exact, text, len);
		free(text);
		(void)LLVMFuzzerTestOneInput(exact, len);
		free(exact);
	}
	printf("[  PASSED  ] %d input(s).\n", argc - 1);
	return argc > 1 ? EXIT_OK : EXIT_USAGE; /* an empty corpus is a mistake */
}
