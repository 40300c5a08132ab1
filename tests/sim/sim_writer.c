/* sim_writer: the writer as it is, but that it takes to COPY where the seed says. */
#include "apply/stream/writer.h"

#include "tests/sim/sim.h"

#undef WRITER_COPY_ROWS
#define WRITER_COPY_ROWS sim_config.copy_rows

#include "apply/stream/writer.c"
