/* sim_writer: the writer as it is, but that it takes to COPY where the seed says. */
#include "apply/stream/writer.h"

#include "tests/sim/sim.h"

#undef WRITER_COPY_ROWS
#define WRITER_COPY_ROWS sim_config.copy_rows
#undef WRITER_COPY_TABLE_ROWS
#define WRITER_COPY_TABLE_ROWS 2
#undef WRITER_COPY_LATEST_ROWS
#define WRITER_COPY_LATEST_ROWS 2
#undef WRITER_FETCH_ROWS
#define WRITER_FETCH_ROWS 3
#undef WRITER_PIPELINE_BYTES
#define WRITER_PIPELINE_BYTES 2000

#include "apply/stream/writer.c"
