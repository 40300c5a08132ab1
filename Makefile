# rolag: one binary, built by one Makefile.
#
#   make            the binary: build/release/rolag
#   make demo       two throwaway PostgreSQL clusters, a bank's load, rolag between them, the proof, all reports
#   make demo-up    the same in the background, to play with; make demo-down ends it
#   make test       everything: check, then the system tests on real clusters
#   make check      unit tests and simulation (ASan+UBSan), formatting, layers, headers: under a minute
#   make sim        a minute of simulated schedules from a random seed (tests/sim/README.md)
#   make bench      rolag beside what one would use instead (tests/bench/README.md)
#   make soak       an hour of load with faults from outside (HOURS=0.1 SEED=1); not part of make test
#   make install    binary, man pages, completions, the Lana pack and grants for readers below PREFIX (/usr/local); DESTDIR for packagers
#   make deps       installs from Debian what is missing (quiet where nothing is); make deps-test: for tests, too
#   make deb        build/deb/rolag_….deb, lintian clean; make test-deb installs it on a fresh Debian and uses it
#   make test-container  builds the image and starts compose.yaml, by podman
#   make lived      of these, a core with a past of two million events
#   make large-report  of these, a report of five million rows in constant memory
#   make test-faults  of these, the faults from outside: servers, networks, disks, clocks
#   make test-asan  the system tests with a program under ASan and UBSan
#   make fuzz       every fuzz target for a short while; T=json SECONDS=60 for one (clang 14)
#   make analyze    gcc -fanalyzer, cppcheck, clang-tidy: no findings (minutes)
#   make cov        lines and branches that tests reach, and those of the core files that none takes
#   make MODE=asan|cov|fail|fuzz …   other flavours, each in its own folder under build/

VERSION := 0.1.0
# Of this version, for its manual pages: they must not depend on the day of a build.
RELEASE_DATE := 2026-11-30
MODE    ?= release
PYTHON  := /usr/bin/python3

PREFIX  ?= /usr/local
DESTDIR ?=

MODES := release asan cov fail fuzz
ifeq ($(filter $(MODE),$(MODES)),)
$(error MODE is one of: $(MODES))
endif

B   := build/$(MODE)
GEN := build/gen

# ---- what is built: explicit lists, one file a line ----

BASE_SRC := \
	proto/base/aio.c \
	proto/base/arena.c \
	proto/base/buf.c \
	proto/base/conf.c \
	proto/base/failpoint.c \
	proto/base/fsio.c \
	proto/base/log.c \
	proto/base/loop.c \
	proto/base/metrics.c \
	proto/base/notify.c \
	proto/base/rt.c \
	proto/base/sha256.c \
	proto/base/yaml.c

PROTO_SRC := \
	proto/frame.c \
	proto/lsn.c \
	proto/record.c \
	proto/settings.c \
	proto/spool_applied.c \
	proto/spool_files.c \
	proto/spool_read.c \
	proto/spool_recall.c \
	proto/spool_write.c

PG_SRC := \
	proto/pg/array.c \
	proto/pg/datetime.c \
	proto/pg/datetime_fields.c \
	proto/pg/datetime_parse.c \
	proto/pg/datetime_tables.c \
	proto/pg/numeric.c \
	proto/pg/pgconn.c \
	proto/pg/published.c \
	proto/pg/shape.c \
	proto/pg/slot.c \
	proto/pg/types.c \
	proto/pg/zone.c

CAPTURE_SRC := \
	cdc/capture/alarms.c \
	cdc/capture/capture.c \
	cdc/capture/connect.c \
	cdc/capture/custody.c \
	cdc/capture/mirrored.c \
	cdc/capture/forecast.c \
	cdc/capture/keep.c \
	cdc/capture/look.c \
	cdc/capture/pgoutput.c \
	cdc/capture/progress.c \
	cdc/capture/recheck.c \
	cdc/capture/relcache.c \
	cdc/capture/stream.c \
	cdc/capture/take.c

ROLLUP_SRC := \
	transforms/rollup/cache.c \
	transforms/rollup/definition.c \
	transforms/rollup/definition_canonical.c \
	transforms/rollup/definition_columns.c \
	transforms/rollup/fold.c \
	transforms/rollup/fold_lists.c \
	transforms/rollup/fold_values.c \
	transforms/rollup/json.c \
	transforms/rollup/json_canonical.c \
	transforms/rollup/json_check.c

REPORT_SRC := \
	transforms/report/cron.c \
	transforms/report/definition.c \
	transforms/report/definition_columns.c \
	transforms/report/form.c \
	transforms/report/select.c \
	transforms/report/value.c \
	transforms/report/xsd.c

REPORTS_SRC := \
	apply/reports/http/address.c \
	apply/reports/http/api_files.c \
	apply/reports/http/api_look.c \
	apply/reports/http/api_runs.c \
	apply/reports/http/ask.c \
	apply/reports/http/assets.c \
	apply/reports/http/body.c \
	apply/reports/http/limit.c \
	apply/reports/http/query.c \
	apply/reports/http/reply.c \
	apply/reports/http/route.c \
	apply/reports/http/server.c \
	apply/reports/http/token.c \
	apply/reports/command.c \
	apply/reports/earlier.c \
	apply/reports/exceptions.c \
	apply/reports/fence.c \
	apply/reports/files.c \
	apply/reports/keep.c \
	apply/reports/making.c \
	apply/reports/making_models.c \
	apply/reports/manifest.c \
	apply/reports/publication.c \
	apply/reports/queue.c \
	apply/reports/reports.c \
	apply/reports/rows.c \
	apply/reports/run_json.c \
	apply/reports/runs.c \
	apply/reports/schedule.c \
	apply/reports/target.c \
	apply/reports/validate.c \
	apply/reports/worker.c

MODELS_SRC := \
	transforms/models/csv.c \
	transforms/models/graph.c \
	transforms/models/project.c \
	transforms/models/project_tests.c \
	transforms/models/project_yaml.c \
	transforms/models/render.c \
	transforms/models/scan.c \
	transforms/models/select.c

APPLY_SRC := \
	apply/reports/build.c \
	apply/reports/build_drop.c \
	apply/reports/build_models.c \
	apply/reports/build_seed.c \
	apply/reports/build_sources.c \
	apply/reports/build_tests.c \
	apply/reports/project_files.c \
	apply/reports/publish.c \
	apply/sql/migrate.c \
	apply/stream/apply.c \
	apply/stream/batch.c \
	apply/stream/delay.c \
	apply/stream/differ.c \
	apply/stream/gather.c \
	apply/stream/landed.c \
	apply/stream/landed_ensure.c \
	apply/stream/leaves.c \
	apply/stream/ledger.c \
	apply/stream/linger.c \
	apply/stream/mirror.c \
	apply/stream/mirror_batch.c \
	apply/stream/mirror_sql.c \
	apply/stream/mirror_take.c \
	apply/stream/mirror_write.c \
	apply/stream/remake.c \
	apply/stream/sampler.c \
	apply/stream/parked.c \
	apply/stream/published.c \
	apply/stream/quarantine.c \
	apply/stream/quarantine_serve.c \
	apply/stream/rebuild.c \
	apply/stream/rebuild_begin.c \
	apply/stream/rebuild_count.c \
	apply/stream/rebuild_swap.c \
	apply/stream/repair.c \
	apply/stream/source.c \
	apply/stream/swap.c \
	apply/stream/swap_sql.c \
	apply/stream/swap_view.c \
	apply/stream/sync.c \
	apply/stream/sync_fork.c \
	apply/stream/sync_mirror.c \
	apply/stream/sync_note.c \
	apply/stream/sync_piece.c \
	apply/stream/sync_read.c \
	apply/stream/sync_stamp.c \
	apply/stream/sync_start.c \
	apply/stream/sync_table.c \
	apply/stream/sync_unit.c \
	apply/stream/sync_worker.c \
	apply/stream/verify.c \
	apply/stream/verify_all.c \
	apply/stream/verify_compare.c \
	apply/stream/verify_core.c \
	apply/stream/verify_fence.c \
	apply/stream/verify_judge.c \
	apply/stream/verify_keys.c \
	apply/stream/verify_list.c \
	apply/stream/verify_mirror.c \
	apply/stream/verify_mirror_rows.c \
	apply/stream/verify_rows.c \
	apply/stream/verify_triggers.c \
	apply/stream/writer.c \
	apply/stream/writer_rows.c

COMMANDS_SRC := \
	cdc/commands/bar.c \
	cdc/commands/check.c \
	cdc/commands/check_core.c \
	cdc/commands/check_definitions.c \
	cdc/commands/check_custody.c \
	cdc/commands/check_http.c \
	cdc/commands/check_machine.c \
	cdc/commands/check_mirrors.c \
	cdc/commands/check_models.c \
	cdc/commands/check_reports.c \
	cdc/commands/check_warehouse.c \
	cdc/commands/cli.c \
	cdc/commands/companion.c \
	cdc/commands/config.c \
	cdc/commands/estate.c \
	cdc/commands/fold.c \
	cdc/commands/init.c \
	cdc/commands/init_core.c \
	cdc/commands/init_reports.c \
	cdc/commands/init_sql.c \
	cdc/commands/init_warehouse.c \
	cdc/commands/manual.c \
	cdc/commands/manual_completions.c \
	cdc/commands/manual_pages.c \
	cdc/commands/models.c \
	cdc/commands/quarantine.c \
	cdc/commands/report.c \
	cdc/commands/roles.c \
	cdc/commands/rebuild.c \
	cdc/commands/run.c \
	cdc/commands/spark.c \
	cdc/commands/spool.c \
	cdc/commands/status.c \
	cdc/commands/status_judge.c \
	cdc/commands/status_look.c \
	cdc/commands/status_print.c \
	cdc/commands/status_prometheus.c \
	cdc/commands/status_state.c \
	cdc/commands/status_tables.c \
	cdc/commands/status_watch.c \
	cdc/commands/story.c \
	cdc/commands/sync.c \
	cdc/commands/term.c \
	cdc/commands/verify.c \
	cdc/commands/verify_repair.c

MAIN_SRC := cdc/main.c

PROTOBUF := proto/change.proto

UNIT_TESTS := \
	test_apply \
	test_base \
	test_cache \
	test_commands \
	test_custody \
	test_definition \
	test_fold \
	test_frame \
	test_http \
	test_json \
	test_ledger \
	test_mirror \
	test_models \
	test_notify \
	test_pgoutput \
	test_progress \
	test_recheck \
	test_record \
	test_relcache \
	test_report \
	test_spool \
	test_spool_disk \
	test_spool_faults \
	test_spool_forged \
	test_terminal \
	test_types \
	test_verify

# Fuzz targets: tests/fuzz/fuzz_NAME.c with its corpus in tests/fuzz/corpus/NAME.
FUZZ := \
	binary \
	cast \
	config \
	csv \
	fold \
	frame \
	http \
	json \
	model \
	pgoutput \
	record \
	reports \
	rollup \
	spool \
	verify

# Programs that the system tests drive.
TEST_TOOLS := \
	cast_probe \
	json_probe \
	slot_probe \
	swap_probe \
	spool_probe

# The simulation (tests/sim/README.md): capture and apply as they are, the kernel and libpq not.
SIM_SRC := \
	tests/sim/core.c \
	tests/sim/disk.c \
	tests/sim/fake_libpq.c \
	tests/sim/process.c \
	tests/sim/sim.c \
	tests/sim/sim_apply.c \
	tests/sim/sim_capture.c \
	tests/sim/sim_writer.c \
	tests/sim/warehouse.c

# Functions that the simulation has in place of the kernel's, the C library's and ours.
SIM_WRAP := \
	open close write pwrite pread read fdatasync fsync ftruncate fstat fstatat unlink unlinkat \
	aio_sync_open aio_sync_close aio_sync_begin aio_sync_end rename mkdir opendir readdir closedir dirfd flock statvfs getrandom \
	inotify_init1 inotify_add_watch inotify_rm_watch \
	malloc calloc realloc free strdup strndup vasprintf __vasprintf_chk \
	rt_bug rt_now_us rt_mono_us log_line loop_init met_open met_add \
	landed_load landed_release landed_ensure landed_park_absent sync_begin \
	remake_serve mirror_ensure rebuild_begin rebuild_ask migrate_check \
	quarantine_load quarantine_is_asked \
	pgc_connect pgc_connect_start pgc_backoff_next spool_writer_open

# Everything but main, so that unit tests can link it.
LIB_SRC := $(BASE_SRC) $(PROTO_SRC) $(PG_SRC) $(CAPTURE_SRC) $(ROLLUP_SRC) $(REPORT_SRC) $(MODELS_SRC) $(APPLY_SRC) $(REPORTS_SRC) \
	$(COMMANDS_SRC)

# ---- tools and flags ----

ifeq ($(MODE),fuzz)
CC       := clang-14
endif
CC       ?= gcc
PKGS     := libpq libprotobuf-c liblz4 libxxhash yaml-0.1 jansson libxml-2.0 libmicrohttpd
# Quiet, since `make deps` on a new machine gets here before they are installed.
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

# -Wno-unused-parameter: callbacks of one shape need not use every argument.
# -Wno-maybe-uninitialized: gcc 12 warns of outputs that are set whenever the call returned 0;
# the sanitizers and valgrind find the real ones.
# -Wno-format-truncation: messages are cut to fit their buffers, knowingly.
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wpointer-arith -Wwrite-strings -Wvla -Wformat=2 -Wundef \
	-Wimplicit-fallthrough -Wnull-dereference -Wno-unused-parameter \
	-Wno-maybe-uninitialized -Wno-format-truncation -fno-common
# DEV=0 for compilers that we have not seen.
DEV ?= 1
ifeq ($(DEV),1)
WARN += -Werror
endif

HARDEN := -fstack-protector-strong -fstack-clash-protection -fPIE
FLAGS_release := -O2 -g -D_FORTIFY_SOURCE=2 $(HARDEN)
FLAGS_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FLAGS_cov     := -O0 -g --coverage
FLAGS_fail    := -O1 -g $(HARDEN)
FLAGS_fuzz    := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LINK_release  := -pie -Wl,-z,relro,-z,now
LINK_asan     := -fsanitize=address,undefined
LINK_cov      := --coverage
LINK_fail     := -pie
LINK_fuzz     := -fsanitize=fuzzer,address,undefined
# With the failpoints of proto/base/failpoints.def; cov has them for what only an error reaches.
DEFINE_fail   := -DROLAG_FAILPOINTS
DEFINE_cov    := -DROLAG_FAILPOINTS
# With optimisation gcc follows paths that the sanitizers' checks add; it then warns of what cannot be.
# Clang knows other warnings: of formats that arguments carry, of uthash's switch. gcc is the one that counts.
WARN_fuzz     := -Wno-unknown-warning-option -Wno-format-nonliteral -Wno-implicit-fallthrough
WARN_asan     := -Wno-null-dereference -Wno-format-truncation -Wno-maybe-uninitialized

CPPFLAGS += -D_GNU_SOURCE -DROLAG_VERSION='"$(VERSION)"' -DROLAG_DATE='"$(RELEASE_DATE)"' -I. -I$(GEN) $(PKG_CFLAGS) \
	$(DEFINE_$(MODE))
CFLAGS   += -std=gnu17 $(FLAGS_$(MODE)) $(WARN) $(WARN_$(MODE)) -ffile-prefix-map=$(CURDIR)=.
LDFLAGS  += $(LINK_$(MODE))
LDLIBS   += $(PKG_LIBS) -laio

# A change of flags rebuilds everything of this mode.
FLAGS_NOW := $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LDLIBS)
$(shell mkdir -p $(B) $(GEN); printf '%s\n' "$(subst ",,$(FLAGS_NOW))" | cmp -s - $(B)/flags \
	|| printf '%s\n' "$(subst ",,$(FLAGS_NOW))" > $(B)/flags)

# Wire and disk forms: no silent change of width or sign.
$(B)/proto/frame.o $(B)/proto/record.o: CFLAGS += -Wconversion

# ---- rules (V=1 shows whole commands) ----

Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1)	$@")

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all check check-unit lint fmt fmt-check layers hdr-check failpoints-check config-check traps-check traps dashboard dashboard-check shellcheck config deps deps-test demo \
	demo-up demo-down test test-system lived large-report test-faults test-asan sim fuzz fuzz-deps analyze analyze-deps analyze-gcc \
	analyze-cppcheck analyze-tidy cov bench soak clean install deb test-deb test-container

all: $(B)/rolag

PB_SRC := $(PROTOBUF:%.proto=$(GEN)/%.pb-c.c)
PB_HDR := $(PROTOBUF:%.proto=$(GEN)/%.pb-c.h)
PB_OBJ := $(PROTOBUF:%.proto=$(B)/gen/%.pb-c.o)
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
MAIN_OBJ := $(MAIN_SRC:%.c=$(B)/%.o)

$(GEN)/%.pb-c.c $(GEN)/%.pb-c.h &: %.proto
	@mkdir -p $(GEN)
	$(call say,PROTO)
	$(Q)protoc-c --c_out=$(GEN) $<

# Generated code is not held to our warnings.
$(B)/gen/%.pb-c.o: $(GEN)/%.pb-c.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(filter-out -W%,$(CFLAGS)) -c -o $@ $<

$(B)/%.o: %.c $(B)/flags | $(PB_HDR)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# Embedded by the assembler, which tells make nothing.
$(B)/apply/sql/migrate.o: $(wildcard apply/sql/*.sql)
$(B)/apply/reports/http/assets.o: $(wildcard apply/reports/console/*)

$(B)/librolag.a: $(LIB_OBJ) $(PB_OBJ)
	@rm -f $@
	$(Q)ar rcsD $@ $^

$(B)/rolag: $(MAIN_OBJ) $(B)/librolag.a
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/tests/%: $(B)/tests/unit/%.o $(B)/librolag.a
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

$(TEST_TOOLS:%=$(B)/tests/%): $(B)/tests/%: $(B)/tests/system/%.o $(B)/librolag.a
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/tests/sim/sim: $(SIM_SRC:%.c=$(B)/%.o) $(B)/librolag.a
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $(SIM_WRAP:%=-Wl,--wrap=%) -o $@ $^ $(LDLIBS)

-include $(SIM_SRC:%.c=$(B)/%.d)

# A fuzz target brings no main: libFuzzer's (MODE=fuzz), or the driver's over the corpus.
FUZZ_MAIN := $(if $(filter fuzz,$(MODE)),,$(B)/tests/fuzz/driver.o)
$(FUZZ:%=$(B)/tests/fuzz_%): $(B)/tests/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(FUZZ_MAIN) $(B)/librolag.a
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

-include $(LIB_OBJ:.o=.d) $(MAIN_OBJ:.o=.d) $(UNIT_TESTS:%=$(B)/tests/unit/%.d) \
	$(TEST_TOOLS:%=$(B)/tests/system/%.d) $(FUZZ:%=$(B)/tests/fuzz/fuzz_%.d) $(B)/tests/fuzz/driver.d

# ---- checks ----

C_FILES := $(shell git ls-files '*.c' '*.h' 2>/dev/null)

# Unit tests run under the sanitizers, whatever MODE is.
check:
	$(MAKE) --no-print-directory -j$$(nproc) MODE=asan check-unit
	$(MAKE) --no-print-directory lint

check-unit: $(UNIT_TESTS:%=$(B)/tests/%) $(TEST_TOOLS:%=$(B)/tests/%) $(FUZZ:%=$(B)/tests/fuzz_%) $(B)/tests/sim/sim
	@for t in $(UNIT_TESTS); do \
		$(B)/tests/$$t > $(B)/tests/$$t.log 2>&1 || { cat $(B)/tests/$$t.log; echo "FAILED: $$t"; exit 1; }; \
		grep -h 'PASSED' $(B)/tests/$$t.log | sed "s/^/$$t /"; \
	done
	@for t in $(FUZZ); do \
		$(B)/tests/fuzz_$$t tests/fuzz/corpus/$$t/* > $(B)/tests/fuzz_$$t.log 2>&1 \
			|| { cat $(B)/tests/fuzz_$$t.log; echo "FAILED: fuzz_$$t"; exit 1; }; \
		sed -n "s/^\[ /fuzz_$$t &/p" $(B)/tests/fuzz_$$t.log; \
	done
	@# Schedules that failed once, and some that never did.
	@$(B)/tests/sim/sim --file tests/sim/seeds.txt
	@$(B)/tests/sim/sim --seeds 1..300

# ---- fuzzing: T names a target (all of them without), SECONDS how long each runs ----

SECONDS := 20
T       ?= $(FUZZ)

fuzz-deps:
	@$(MAKE) -s --no-print-directory deps DEBIAN_PACKAGES="clang-14 libclang-rt-14-dev"

# What is new goes to build/fuzz/corpus, what fails to build/fuzz/found: mend it, and keep it in
# tests/fuzz/corpus, named for what it found.
fuzz: fuzz-deps
	@$(MAKE) --no-print-directory -j$$(nproc) MODE=fuzz $(T:%=build/fuzz/tests/fuzz_%)
	@for t in $(T); do \
		mkdir -p build/fuzz/corpus/$$t build/fuzz/found; \
		echo "== fuzz_$$t, $(SECONDS) s"; \
		build/fuzz/tests/fuzz_$$t -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 \
			-print_final_stats=1 -artifact_prefix=build/fuzz/found/$$t- \
			build/fuzz/corpus/$$t tests/fuzz/corpus/$$t > build/fuzz/$$t.log 2>&1 \
			|| { tail -50 build/fuzz/$$t.log; echo "FAILED: fuzz_$$t"; exit 1; }; \
		grep -E 'number_of_executed|cov:' build/fuzz/$$t.log | tail -2; \
	done

# ---- static analysis, zero findings: minutes, so not in check; run it before a merge ----

ANALYZE_FILES := $(LIB_SRC) $(MAIN_SRC)
# malloc-leak: gcc 12 does not see that uthash keeps what was added; LeakSanitizer does.
ANALYZE_GCC := $(CPPFLAGS) -std=gnu17 -O1 -fanalyzer -Wno-analyzer-malloc-leak -Werror -fdiagnostics-plain-output
# readdirCalled, getpwuidCalled: no threads. The error is protoc-c's check of versions, whose macros cppcheck does not know.
ANALYZE_CPPCHECK := --quiet --enable=warning,performance,portability --inline-suppr --std=c11 $(CPPFLAGS) \
	--library=gnu --library=posix --suppress=missingIncludeSystem --suppress=readdirCalled --suppress=getpwuidCalled \
	--suppress=preprocessorErrorDirective:build/gen/* --error-exitcode=1

analyze: analyze-gcc analyze-cppcheck analyze-tidy

analyze-deps:
	@$(MAKE) -s --no-print-directory deps DEBIAN_PACKAGES="cppcheck clang-tidy-14"

analyze-gcc: $(PB_HDR)
	@printf '%s\n' $(ANALYZE_FILES) | xargs -P$$(nproc) -I{} gcc $(ANALYZE_GCC) -c -o /dev/null {}

analyze-cppcheck: $(PB_HDR) analyze-deps
	@cppcheck -j$$(nproc) $(ANALYZE_CPPCHECK) $(ANALYZE_FILES)

# One process for each file: with several, version 14 takes the second's va_list for uninitialised.
analyze-tidy: $(PB_HDR) analyze-deps
	@printf '%s\n' $(ANALYZE_FILES) | xargs -P$$(nproc) -I{} clang-tidy-14 --quiet {} -- $(CPPFLAGS) -std=gnu17

# ---- coverage: unit tests and corpora; SYSTEM="-k kill" adds the system tests that pytest selects by it ----

COV_FILES := cdc/capture/pgoutput.c cdc/capture/progress.c proto/frame.c proto/record.c \
	proto/spool_applied.c proto/spool_files.c proto/spool_read.c proto/spool_recall.c proto/spool_write.c \
	apply/stream/ledger.c

cov:
	@$(MAKE) -s --no-print-directory deps DEBIAN_PACKAGES="gcovr"
	@find build/cov -name '*.gcda' -delete 2>/dev/null || true
	@$(MAKE) --no-print-directory -j$$(nproc) MODE=cov check-unit all
ifneq ($(SYSTEM),)
	-@ROLAG=build/cov/rolag ROLAG_FAIL_BINARY=build/cov/rolag $(SYSTEM_TESTS) tests/system \
		--ignore tests/system/test_demo.py $(SYSTEM)
endif
	@gcovr -r . --object-directory build/cov --exclude-unreachable-branches -e tests/ -e build/ --json - \
		build/cov | $(PYTHON) tests/lint/coverage.py $(COV_FILES)

SIM_SECONDS ?= 60
sim:
	@$(MAKE) --no-print-directory -j$$(nproc) MODE=release build/release/tests/sim/sim
	@build/release/tests/sim/sim --seconds $(SIM_SECONDS)

lint: fmt-check layers hdr-check failpoints-check config-check traps-check dashboard-check shellcheck

fmt:
	@clang-format -i $(C_FILES)

fmt-check:
	@clang-format --dry-run -Werror $(C_FILES)

layers:
	@$(PYTHON) tests/lint/layers.py

failpoints-check:
	@$(PYTHON) tests/lint/failpoints.py

# tests/TRAPS.md: bugs of others, each with the tests that are named for it (`make traps` writes it).
traps-check:
	@$(PYTHON) tests/lint/traps.py

traps:
	@$(PYTHON) tests/lint/traps.py --write

# deploy/grafana/rolag.json is what its program prints (`make dashboard` writes it).
dashboard-check:
	@$(PYTHON) deploy/grafana/make_dashboard.py | diff -q deploy/grafana/rolag.json - > /dev/null || { echo "stale: make dashboard"; exit 1; }

dashboard:
	$(PYTHON) deploy/grafana/make_dashboard.py > deploy/grafana/rolag.json

shellcheck:
	@shellcheck -s sh $(wildcard deploy/debian/rolag.p*) deploy/container/prepare tests/container/postgres/entrypoint
	@shellcheck .ci/run

# deploy/rolag.yaml is what the program prints (`make config` writes it).
config-check:
	@$(MAKE) --no-print-directory MODE=asan build/asan/rolag
	@build/asan/rolag config | diff deploy/rolag.yaml - || { echo "stale: make config"; exit 1; }

config:
	@$(MAKE) --no-print-directory MODE=asan build/asan/rolag
	build/asan/rolag config > deploy/rolag.yaml

# Every header compiles alone.
hdr-check: $(PB_HDR)
	@for h in $(filter %.h,$(C_FILES)); do \
		printf '#include "%s"\n' $$h | $(CC) $(CPPFLAGS) -std=gnu17 $(WARN) -fsyntax-only -x c - \
			|| { echo "not self-contained: $$h"; exit 1; }; \
	done

# Debian packages that building, testing and the demo need.
DEBIAN_PACKAGES := gcc make pkg-config libpq-dev libprotobuf-c-dev protobuf-c-compiler \
	protobuf-compiler libaio-dev liblz4-dev libxxhash-dev libyaml-dev uthash-dev libjansson-dev libxml2-dev libxml2-utils libmicrohttpd-dev libcmocka-dev \
	clang-format-14 git postgresql-15 postgresql-client-15 python3 python3-yaml python3-pytest \
	python3-pytest-xdist python3-pytest-rerunfailures python3-psycopg python3-protobuf python3-lz4 python3-xxhash python3-selenium chromium chromium-driver curl jq openssl shellcheck tzdata

deps:
	@have=$$(dpkg-query -W -f=' $${Package}=$${db:Status-Status} ' $(DEBIAN_PACKAGES) 2>/dev/null); missing=; \
	for p in $(DEBIAN_PACKAGES); do \
		case "$$have" in *" $$p=installed "*) ;; *) missing="$$missing $$p" ;; esac; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "installing:$$missing"; \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing > /dev/null; \
	fi

# What the tests of man pages, completions, units, rules and packaging read them with; where one is missing, its
# test is skipped and says so.
TEST_PACKAGES := fish groff-base mandoc systemd zsh

deps-test: deps build/tools/promtool
	@$(MAKE) -s --no-print-directory deps DEBIAN_PACKAGES="$(TEST_PACKAGES)"

# Out of Debian's package, which would start a server if it were installed.
build/tools/promtool:
	@mkdir -p build/tools/unpacked
	@if command -v promtool > /dev/null; then ln -sf "$$(command -v promtool)" $@; else \
		cd build/tools && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb unpacked && \
		ln -sf unpacked/usr/bin/promtool promtool || echo "no promtool: its tests are skipped"; fi

test: deps-test
	$(MAKE) --no-print-directory check
	$(MAKE) --no-print-directory test-system

# Several groups of tests at a time (tests/system/conftest.py), as most of them wait more than they compute; each
# worker has clusters of its own. A test that fails is run once more, and named at the end (RERUN): on a busy machine
# servers, kills and clocks meet in orders that no other run has shown, in the test or in the program; look at it. The
# first that fails twice ends it. WORKERS=0: one after the other. RERUNS=0: no second chance.
WORKERS ?= 4
RERUNS ?= 1
SYSTEM_TESTS := $(PYTHON) -m pytest -q -p no:cacheprovider -n $(WORKERS) --dist loadgroup --reruns $(RERUNS) -rR \
	--maxfail 1 --durations 10

# Real clusters, real kills. PYTEST="-k name" runs a part.
test-system:
	$(MAKE) --no-print-directory -j$$(nproc) MODE=release all $(TEST_TOOLS:%=build/release/tests/%)
	$(MAKE) --no-print-directory -j$$(nproc) MODE=asan $(TEST_TOOLS:%=build/asan/tests/%) build/asan/rolag
	$(MAKE) --no-print-directory -j$$(nproc) MODE=fail build/fail/rolag
	@$(SYSTEM_TESTS) tests/system $(PYTEST) \
		&& echo "System tests: all passed." || { echo "System tests: FAILED."; exit 1; }

# Beside what one would use instead; about 40 minutes. BENCH="--only catchup --repeats 1" and the like.
bench: deps
	@$(MAKE) -s --no-print-directory -j$$(nproc) MODE=release all
	@exec $(PYTHON) tests/bench/bench.py $(BENCH)

# An hour of a bank under load with a fault every 10 to 30 seconds, and continuous comparison (SOAK="--only network_cut").
# With failpoints among the faults; MODE=asan: without them, and with the sanitizers.
HOURS ?= 1
SEED  ?=
SOAK_MODE := $(if $(filter release,$(MODE)),fail,$(MODE))
soak: deps
	$(MAKE) --no-print-directory -j$$(nproc) MODE=$(SOAK_MODE) build/$(SOAK_MODE)/rolag
	@exec env ROLAG=$(CURDIR)/build/$(SOAK_MODE)/rolag $(PYTHON) tests/soak/soak.py --hours $(HOURS) \
		$(if $(SEED),--seed $(SEED)) $(SOAK)

# Those of them that are faults from outside: servers, networks, disks, clocks, copies. Some need root (mounts, namespaces).
test-faults: deps
	@$(MAKE) -s --no-print-directory -j$$(nproc) MODE=release all
	@$(SYSTEM_TESTS) tests/system/test_faults.py $(PYTEST)

# The largest of them, with more: a core of two million events before rolag comes.
ROLAG_LIVED_EVENTS ?= 2000000
lived: deps
	@$(MAKE) -s --no-print-directory -j$$(nproc) MODE=release all
	@ROLAG_LIVED_EVENTS=$(ROLAG_LIVED_EVENTS) $(SYSTEM_TESTS) tests/system/test_lived.py $(PYTEST)

# A report of five million rows, and the memory that it takes; fewer in `make test`.
ROLAG_LARGE_ROWS ?= 5000000
large-report: deps
	@$(MAKE) -s --no-print-directory -j$$(nproc) MODE=release all
	@ROLAG_LARGE_ROWS=$(ROLAG_LARGE_ROWS) $(SYSTEM_TESTS) -s tests/system/test_large_report.py $(PYTEST)

# The same with the sanitizers in the program; a report of theirs fails its test. test_demo is about the demo, not the program.
test-asan: deps
	$(MAKE) --no-print-directory -j$$(nproc) MODE=asan all $(TEST_TOOLS:%=build/asan/tests/%)
	$(MAKE) --no-print-directory -j$$(nproc) MODE=fail build/fail/rolag
	@ROLAG=build/asan/rolag $(SYSTEM_TESTS) --reruns 0 tests/system --ignore tests/system/test_demo.py $(PYTEST)

# ---- the demo (DEMO="--seconds 10 --rate 100" and the like; `demo.py --help`) ----

# One shell that becomes the demo: ^C reaches it, and it cleans up.
demo: deps
	@$(MAKE) -s --no-print-directory MODE=release all
	@exec $(PYTHON) deploy/demo/demo.py run $(DEMO)

demo-up: deps
	@$(MAKE) -s --no-print-directory MODE=release all
	@exec $(PYTHON) deploy/demo/demo.py up $(DEMO)

demo-down: deps
	@exec $(PYTHON) deploy/demo/demo.py down

# The program, its man pages and completions, and the Lana pack; no configuration, no service (make deb has them).
install: $(B)/rolag
	install -D -m 755 $(B)/rolag $(DESTDIR)$(PREFIX)/bin/rolag
	install -d $(DESTDIR)$(PREFIX)/share/rolag/lana
	cp -R transforms/lana/. $(DESTDIR)$(PREFIX)/share/rolag/lana/
	install -D -m 644 deploy/grants/readers.sql $(DESTDIR)$(PREFIX)/share/rolag/readers.sql
	$(B)/rolag manual $(DESTDIR)$(PREFIX)/share

# ---- the Debian package: build/deb/rolag_VERSION_ARCH.deb, made by debhelper in a tree of its own ----

DEB_TREE := build/deb/rolag-$(VERSION)
DEB      := build/deb/rolag_$(VERSION)-1_$(shell dpkg --print-architecture 2>/dev/null).deb
DEB_PACKAGES := debhelper dpkg-dev fakeroot lintian

deb: deps
	@$(MAKE) -s --no-print-directory deps DEBIAN_PACKAGES="$(DEB_PACKAGES)"
	@rm -rf build/deb && mkdir -p $(DEB_TREE)
	@git ls-files -z | xargs -0 cp --parents -t $(DEB_TREE)
	@cp -R deploy/debian $(DEB_TREE)/debian
	@cd $(DEB_TREE) && env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS dpkg-buildpackage -b -uc -us --jobs=auto > ../build.log 2>&1 \
		|| { tail -30 ../build.log; exit 1; }
	@lintian --allow-root --fail-on error,warning $(DEB)
	@echo $(DEB)

# On a fresh Debian (debootstrap) that boots a systemd of its own in namespaces; as root, minutes. PYTEST as elsewhere.
test-deb: deb
	@$(MAKE) -s --no-print-directory deps DEBIAN_PACKAGES="debootstrap util-linux"
	@$(PYTHON) -m pytest -q -p no:cacheprovider -rs tests/deb $(PYTEST)

test-container:
	@$(MAKE) -s --no-print-directory deps DEBIAN_PACKAGES="debootstrap podman podman-compose runc catatonit netavark aardvark-dns iptables"
	@$(PYTHON) -m pytest -q -p no:cacheprovider -rs tests/container $(PYTEST)

clean:
	rm -rf build
