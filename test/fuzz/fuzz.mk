# Builds the fuzz targets: make -f test/fuzz/fuzz.mk all-targets. The whole engine is compiled with clang's coverage for
# libFuzzer (FLAVOR=fuzz), and what is tried of the extension with the stand-in for PostgreSQL in pg_standin.c.

CLANG ?= clang
CLANGXX ?= $(subst clang,clang++,$(CLANG))
PG_CONFIG ?= pg_config

FLAVOR = fuzz
ENGINE_CC = $(CLANG)
ENGINE_CXX = $(CLANGXX)
FUZZ_CHECKS = -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZE = -fsanitize=fuzzer-no-link $(FUZZ_CHECKS)
OPTFLAGS = -march=native

ENGINE_TARGETS = safetensors config adapter protocol index tokenizer tokenizer_json vocab added_tokens charsmap requests state torch directory
EXTENSION_TARGETS = template adapter_config backbones replies status

all-targets: $(ENGINE_TARGETS:%=build/fuzz/fuzz_%) $(EXTENSION_TARGETS:%=build/fuzz/fuzz_%)

include src/engine/engine.mk

# What test/fuzz/libraries has built, if it has been run, stands in for the system's libraries.
FUZZ_LIBRARIES := $(wildcard build/fuzz/libraries/lib*.a)
FUZZ_LIBS = $(FUZZ_LIBRARIES) $(ENGINE_LIBS)
FUZZ_ENGINE = build/fuzz/engine.a

$(FUZZ_ENGINE): $(ENGINE_OBJS)
	@rm -f $@
	$(AR) -rcs $@ $^

build/fuzz/test/fuzz/fuzz_%.o: ENGINE_CFLAGS := $(filter-out -O3,$(ENGINE_CFLAGS)) -O1

$(ENGINE_TARGETS:%=build/fuzz/fuzz_%): build/fuzz/fuzz_%: build/fuzz/test/fuzz/fuzz_%.o $(FUZZ_ENGINE) $(FUZZ_LIBRARIES)
	$(CLANGXX) -fsanitize=fuzzer $(FUZZ_CHECKS) -o $@ $< $(FUZZ_ENGINE) $(FUZZ_LIBS)

# --- the extension ---

FUZZ_PG_CFLAGS = -I. -Isrc -Itest/fuzz -I$(shell $(PG_CONFIG) --includedir-server) -std=gnu11 -O1 -g -D_GNU_SOURCE \
	-DUSE_ASSERT_CHECKING=1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers -Wno-ignored-attributes \
	-Werror=incompatible-pointer-types -Werror=int-conversion \
	-fno-strict-aliasing -fwrapv $(SANITIZE) -MMD -MP
# StringInfo, psprintf, characters and hashes are PostgreSQL's own, from the libraries for its client programs.
FUZZ_PG_LIBS = $(addprefix $(shell $(PG_CONFIG) --pkglibdir)/,libpgcommon.a libpgport.a)

FUZZ_SOURCES_template = client/string_list tasks/template
FUZZ_SOURCES_adapter_config = client/string_list tasks/adapter_config
FUZZ_SOURCES_backbones = supervisor/backbones
FUZZ_SOURCES_replies = client/client client/client_errors client/connection client/engine_info client/string_list \
	client/text client/tokenize predict/score_request tasks/adapter_request tasks/task train/train_job
FUZZ_SOURCES_status = supervisor/engine_process supervisor/watchdog
FUZZ_HELPERS_replies = replies_stat replies_normalize

build/fuzz/extension/%.o: %.c
	@mkdir -p $(@D)
	$(CLANG) $(FUZZ_PG_CFLAGS) -c -o $@ $<

# What a target never calls need not exist.
.SECONDEXPANSION:
$(EXTENSION_TARGETS:%=build/fuzz/fuzz_%): build/fuzz/fuzz_%: build/fuzz/extension/test/fuzz/fuzz_%.o \
		$$(addprefix build/fuzz/extension/,$$(addsuffix .o, $$(addprefix src/extension/,$$(FUZZ_SOURCES_$$*)) \
			$$(addprefix test/fuzz/,pg_standin $$(FUZZ_HELPERS_$$*))))
	$(CLANGXX) -fsanitize=fuzzer $(FUZZ_CHECKS) -no-pie -Wl,--unresolved-symbols=ignore-all -o $@ $(filter %.o,$^) \
		$(FUZZ_PG_LIBS) $(FUZZ_LIBRARIES) -ljansson -lm

-include $(wildcard build/fuzz/extension/*/*/*.d build/fuzz/extension/*/*/*/*.d build/fuzz/test/fuzz/*.d)
