# Builds ia3_engine and its tests. Included by the top Makefile; also works alone, without PostgreSQL:
#
#   make -f src/engine/engine.mk ia3_engine check-engine
#
# Object files go to build/$(FLAVOR)/ so that sanitizer builds do not mix with the ordinary one.

ENGINE_CC ?= gcc
ENGINE_CXX ?= g++
OPTFLAGS ?= -march=native
FLAVOR ?= release
SANITIZE ?=
ENGINE_BUILD = build/$(FLAVOR)
ENGINE_WARN = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers $(WERROR)
ENGINE_CFLAGS = -std=gnu11 -O3 -g -fno-math-errno -fno-trapping-math $(OPTFLAGS) $(ENGINE_WARN) $(SANITIZE) -pthread -D_GNU_SOURCE -MMD -MP
ENGINE_CXXFLAGS = -std=c++17 -O2 -g $(OPTFLAGS) $(ENGINE_WARN) $(SANITIZE) -pthread -MMD -MP
ENGINE_LIBS = -ldnnl -lsentencepiece -ljansson -lcrypto -lgomp -lm -ldl -pthread

# main.c holds main(); everything else is also linked into the tests.
ENGINE_SRCS = $(filter-out src/engine/main.c,$(wildcard src/engine/*.c)) $(wildcard kernels/cpu/*.c)
ENGINE_OBJS = $(patsubst %.c,$(ENGINE_BUILD)/%.o,$(ENGINE_SRCS)) \
	$(patsubst %.cc,$(ENGINE_BUILD)/%.o,$(wildcard src/engine/*.cc))
ENGINE_MAIN = $(ENGINE_BUILD)/src/engine/main.o
# What several tests share (test/engine/*.c that are not tests).
ENGINE_TEST_HELPERS = $(patsubst test/engine/%.c,$(ENGINE_BUILD)/test/engine/%.o,$(filter-out test/engine/test_%.c,$(wildcard test/engine/*.c)))
ENGINE_TESTS = $(patsubst test/engine/%.c,$(ENGINE_BUILD)/test/%,$(wildcard test/engine/test_*.c))

ia3_engine: $(ENGINE_BUILD)/ia3_engine
	cp $< $@

$(ENGINE_BUILD)/ia3_engine: $(ENGINE_MAIN) $(ENGINE_OBJS)
	$(ENGINE_CXX) $(SANITIZE) -o $@ $^ $(ENGINE_LIBS)

$(ENGINE_BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) -c -o $@ $<

# All forms of the eight-bit kernel round alike.
$(ENGINE_BUILD)/kernels/cpu/int8%.o: ENGINE_CFLAGS += -ffp-contract=off

$(ENGINE_BUILD)/%.o: %.cc
	@mkdir -p $(@D)
	$(ENGINE_CXX) $(ENGINE_CXXFLAGS) -c -o $@ $<

$(ENGINE_BUILD)/test/%: test/engine/%.c $(ENGINE_OBJS) $(ENGINE_TEST_HELPERS)
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) -MF $@.d -c -o $@.o $<
	$(ENGINE_CXX) $(SANITIZE) -o $@ $@.o $(ENGINE_TEST_HELPERS) $(ENGINE_OBJS) -lcmocka $(ENGINE_LIBS)

$(ENGINE_BUILD)/bench/%: test/bench/%.c $(ENGINE_OBJS)
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) -MF $@.d -c -o $@.o $<
	$(ENGINE_CXX) $(SANITIZE) -o $@ $@.o $(ENGINE_OBJS) $(ENGINE_LIBS)

$(ENGINE_BUILD)/test/test_cli $(ENGINE_BUILD)/test/test_drain $(ENGINE_BUILD)/test/test_interchange $(ENGINE_BUILD)/test/test_server $(ENGINE_BUILD)/test/test_server_faults $(ENGINE_BUILD)/test/test_server_generate: $(ENGINE_BUILD)/ia3_engine

# Every test binary prints cmocka's summary; a failing one stops the run at the end with its name.
check-engine: $(ENGINE_TESTS)
	@failed=; for t in $(ENGINE_TESTS); do $$t || failed="$$failed $$t"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

.PHONY: check-engine
.SECONDARY:

-include $(ENGINE_OBJS:.o=.d) $(ENGINE_MAIN:.o=.d)
