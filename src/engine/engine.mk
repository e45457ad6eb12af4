# Builds ia3_engine and its tests. Included by the top Makefile; also works alone, without PostgreSQL:
#
#   make -f src/engine/engine.mk ia3_engine check-engine
#
# Object files go to build/$(FLAVOR)/ so that sanitizer builds do not mix with the ordinary one.

ENGINE_CC ?= gcc
ENGINE_CXX ?= g++
OBJCOPY ?= objcopy
FLAVOR ?= release
SANITIZE ?=
ENGINE_BUILD = build/$(FLAVOR)

# The kernels are compiled once per variant, and the engine chooses the best one for the processor (kernels/cpu/isa.c,
# which must check for exactly the flags given here). The rest of the engine runs on any processor. If OPTFLAGS is not
# empty, there is only one variant, "native", and everything is compiled with these flags. This is also the default for
# builds with sanitizers, which run on the machine that compiles them.
CPU_VARIANTS_x86_64 = avx2 avx512 avx512bf16
CPU_FLAGS_avx2 = -mavx2 -mfma -mbmi -mbmi2
CPU_FLAGS_avx512 = $(CPU_FLAGS_avx2) -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
CPU_FLAGS_avx512bf16 = $(CPU_FLAGS_avx512) -mavx512vnni -mavx512bf16
CPU_VARIANTS_aarch64 = neon dotprod
CPU_FLAGS_dotprod = -march=armv8.2-a+dotprod
ifneq ($(SANITIZE),)
OPTFLAGS ?= -march=native
endif
ifeq ($(strip $(OPTFLAGS)),)
ENGINE_ARCH := $(firstword $(subst -, ,$(shell $(ENGINE_CC) -dumpmachine)))
CPU_VARIANTS ?= $(or $(CPU_VARIANTS_$(ENGINE_ARCH)),native)
# Tests include headers of the kernels and run on the machine that compiles them.
TEST_OPTFLAGS ?= -march=native
else
CPU_VARIANTS = native
endif

# Lines and functions, which is what profilers, sanitizers and core files need. The variables as well (-g, for a debugger)
# take a quarter more time to compile.
DEBUG_INFO ?= -g1
ENGINE_WARN = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers $(WERROR)
# Headers of other folders are included by their path from src, those of kernels by their path from the top.
ENGINE_INCLUDES = -Isrc -I.
ENGINE_CFLAGS = $(ENGINE_INCLUDES) -std=gnu11 -O3 -Werror=implicit-function-declaration $(DEBUG_INFO) -fno-math-errno -fno-trapping-math $(OPTFLAGS) $(ENGINE_WARN) $(SANITIZE) -pthread -D_GNU_SOURCE -MMD -MP
ENGINE_CXXFLAGS = $(ENGINE_INCLUDES) -std=c++17 -O2 $(DEBUG_INFO) $(OPTFLAGS) $(ENGINE_WARN) $(SANITIZE) -pthread -MMD -MP
ENGINE_LIBS = -ldnnl -llinear -lsentencepiece -lpcre2-8 -ljansson -lcrypto -lgomp -lm -ldl -pthread

# main.c holds main(); everything else is also linked into the tests.
ENGINE_SRCS = $(filter-out src/engine/cli/main.c,$(wildcard src/engine/*/*.c src/engine/*/*/*.c)) kernels/cpu/isa.c
ENGINE_CC_OBJS = $(patsubst %.c,$(ENGINE_BUILD)/%.o,$(ENGINE_SRCS)) \
	$(patsubst %.cc,$(ENGINE_BUILD)/%.o,$(wildcard src/engine/*/*.cc))
KERNEL_SRCS = $(filter-out kernels/cpu/isa.c,$(wildcard kernels/cpu/*.c))
KERNEL_OBJS = $(foreach v,$(CPU_VARIANTS),$(call kernel_objs,$(v)))
kernel_objs = $(patsubst kernels/cpu/%.c,$(ENGINE_BUILD)/kernels/cpu-$(1)/%.o,$(KERNEL_SRCS))
ENGINE_OBJS = $(ENGINE_CC_OBJS) $(CPU_VARIANTS:%=$(ENGINE_BUILD)/kernels/cpu-%.o)
# The objects of one variant, for tests of kernels; the linker uses only those that a test refers to.
KERNEL_ARCHIVE = $(ENGINE_BUILD)/kernels/cpu-$(firstword $(CPU_VARIANTS)).a
ENGINE_MAIN = $(ENGINE_BUILD)/src/engine/cli/main.o
# Code that several tests share: files in test/engine that are not tests.
ENGINE_TEST_HELPERS = $(patsubst test/engine/%.c,$(ENGINE_BUILD)/test/engine/%.o,$(filter-out test/engine/test_%.c,$(wildcard test/engine/*.c)))
ENGINE_TESTS = $(patsubst test/engine/%.c,$(ENGINE_BUILD)/test/%,$(wildcard test/engine/test_*.c))

ia3_engine: $(ENGINE_BUILD)/ia3_engine
	cp $< $@

$(ENGINE_BUILD)/ia3_engine: $(ENGINE_MAIN) $(ENGINE_OBJS)
	$(ENGINE_CXX) $(SANITIZE) -o $@ $^ $(ENGINE_LIBS)

$(ENGINE_BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) -c -o $@ $<

# A variant's kernels, linked together. Only the function that opens the device remains visible.
define kernel_rules
$(ENGINE_BUILD)/kernels/cpu-$(1)/%.o: kernels/cpu/%.c
	@mkdir -p $$(@D)
	$$(ENGINE_CC) $$(ENGINE_CFLAGS) $$(CPU_FLAGS_$(1)) -Wno-psabi -DIA3_CPU_VARIANT=$(1) -I$$(ENGINE_BUILD)/kernels \
		-c -o $$@ $$<

$(ENGINE_BUILD)/kernels/cpu-$(1).o: $(call kernel_objs,$(1))
	$$(ENGINE_CC) -r -nostdlib -o $$@.all $$^
	$$(OBJCOPY) --keep-global-symbol=ia3_cpu_open_$(1) $$@.all $$@
	@rm -f $$@.all

$(ENGINE_BUILD)/kernels/cpu-$(1).a: $(call kernel_objs,$(1))
	@rm -f $$@
	$$(AR) -rcs $$@ $$^

# All forms of the eight-bit kernel must round in the same way.
$(ENGINE_BUILD)/kernels/cpu-$(1)/int8.o: ENGINE_CFLAGS += -ffp-contract=off
$(ENGINE_BUILD)/kernels/cpu-$(1)/int8_%.o: ENGINE_CFLAGS += -ffp-contract=off
# AddressSanitizer watches all memory that these read and write, but not the sums that they keep in local arrays: that
# alone would take twice the time.
$(ENGINE_BUILD)/kernels/cpu-$(1)/fgemm.o: ENGINE_CFLAGS += $(ASAN_HEAP_ONLY)
endef
ASAN_HEAP_ONLY = $(if $(findstring address,$(SANITIZE)),$(if $(findstring clang,$(ENGINE_CC)),-mllvm -asan-stack=0,--param asan-stack=0))
$(foreach v,$(CPU_VARIANTS),$(eval $(call kernel_rules,$(v))))

$(ENGINE_BUILD)/kernels/cpu/isa.o: ENGINE_CFLAGS += -I$(ENGINE_BUILD)/kernels
$(ENGINE_BUILD)/kernels/cpu/isa.o $(KERNEL_OBJS): | $(ENGINE_BUILD)/kernels/cpu_variants.h

# Rewritten only when the list changes.
$(ENGINE_BUILD)/kernels/cpu_variants.h: always
	@mkdir -p $(@D)
	@echo '#define IA3_CPU_VARIANTS(X) $(foreach v,$(CPU_VARIANTS),X($(v)))' >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(ENGINE_BUILD)/%.o: %.cc
	@mkdir -p $(@D)
	$(ENGINE_CXX) $(ENGINE_CXXFLAGS) -c -o $@ $<

$(ENGINE_BUILD)/test/%: test/engine/%.c $(ENGINE_OBJS) $(KERNEL_ARCHIVE) $(ENGINE_TEST_HELPERS)
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) $(TEST_OPTFLAGS) -I$(ENGINE_BUILD)/kernels -MF $@.d -MT $@ -c -o $@.o $<
	$(ENGINE_CXX) $(SANITIZE) -o $@ $@.o $(ENGINE_TEST_HELPERS) $(ENGINE_OBJS) $(KERNEL_ARCHIVE) -lcmocka $(ENGINE_LIBS)

$(ENGINE_BUILD)/bench/%: bench/%.c $(ENGINE_OBJS)
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) -I$(ENGINE_BUILD)/kernels -MF $@.d -MT $@ -c -o $@.o $<
	$(ENGINE_CXX) $(SANITIZE) -o $@ $@.o $(filter %.o,$^) $(ENGINE_LIBS)

# Parts of bench_profile. The loops that measure the processor's limits are compiled like the kernels of each variant.
BENCH_PARTS = bench_limits bench_ops bench_rates
BENCH_PROFILE_OBJS = $(BENCH_PARTS:%=$(ENGINE_BUILD)/bench/parts/%.o) $(CPU_VARIANTS:%=$(ENGINE_BUILD)/bench/loops-%.o)
$(ENGINE_BUILD)/bench/bench_profile: $(BENCH_PROFILE_OBJS)

$(ENGINE_BUILD)/bench/parts/%.o: bench/%.c | $(ENGINE_BUILD)/kernels/cpu_variants.h
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) -I$(ENGINE_BUILD)/kernels -c -o $@ $<

define bench_rules
$(ENGINE_BUILD)/bench/loops-$(1).o: bench/bench_rate_loops.c
	@mkdir -p $$(@D)
	$$(ENGINE_CC) $$(ENGINE_CFLAGS) $$(CPU_FLAGS_$(1)) -Wno-psabi -DIA3_CPU_VARIANT=$(1) -c -o $$@ $$<
endef
$(foreach v,$(CPU_VARIANTS),$(eval $(call bench_rules,$(v))))

# for LD_PRELOAD
$(ENGINE_BUILD)/bench/hold_isa.so: bench/hold_isa.c
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) -fPIC -MF $(@:.so=.d) -MT $@ -shared -o $@ $<

$(ENGINE_BUILD)/test/test_cli $(ENGINE_BUILD)/test/test_drain $(ENGINE_BUILD)/test/test_give_way $(ENGINE_BUILD)/test/test_heartbeat $(ENGINE_BUILD)/test/test_interchange $(ENGINE_BUILD)/test/test_runs $(ENGINE_BUILD)/test/test_linear $(ENGINE_BUILD)/test/test_server $(ENGINE_BUILD)/test/test_server_faults $(ENGINE_BUILD)/test/test_server_generate $(ENGINE_BUILD)/test/test_weights $(ENGINE_BUILD)/test/test_zoo: $(ENGINE_BUILD)/ia3_engine

# --- the CUDA module, which the engine loads at run time ---

# a comma inside a function's arguments
, := ,
NVCC ?= $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
# The GPUs to compile for, and PTX (compute_N) for later ones.
CUDA_ARCHS ?= sm_80 sm_90 compute_90
CUDA_FLAGS ?=
# Why the module cannot be built: kernels/cuda/nvcc_check.sh prints a reason, or nothing if it can.
CUDA_REFUSED := $(shell sh kernels/cuda/nvcc_check.sh '$(NVCC)')
ifeq ($(CUDA_REFUSED),)
# The toolkit's libraries, in the folder through which nvcc was called (/usr/local/cuda), because this path remains valid
# when the toolkit is updated. The module also looks for cuBLASLt there first, because PostgreSQL's environment may not
# contain the toolkit's folder.
CUDA_BIN := $(dir $(shell command -v '$(NVCC)'))
CUDA_LIB := $(abspath $(firstword $(wildcard $(CUDA_BIN)../lib64 $(CUDA_BIN)../lib $(dir $(realpath $(CUDA_BIN)nvcc))../lib64)))
endif
NVCC_FLAGS = $(ENGINE_INCLUDES) -std=c++17 -O3 -lineinfo $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(lastword $(subst _, ,$(a))),code=$(a)) \
	$(if $(WERROR),-Werror all-warnings) -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unused-parameter \
	-MMD -MP $(CUDA_FLAGS)
CUDA_SRCS = $(wildcard kernels/cuda/*.cu)
CUDA_OBJS = $(patsubst %.cu,$(ENGINE_BUILD)/%.o,$(CUDA_SRCS))
# The module is self-contained: the code that it needs from the engine is compiled into it.
MODULE_HOST_OBJ = $(ENGINE_BUILD)/kernels/cuda/host_error.o

# What the assembler says of registers and stacks stays in a file beside the object, for scripts/test cuda.
PTXAS_SAYS = '^ptxas info|bytes stack frame'
$(ENGINE_BUILD)/kernels/cuda/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -Xptxas -v -c -o $@ $< >$@.log 2>&1 || { cat $@.log; rm -f $@; exit 1; }
	@grep -vE $(PTXAS_SAYS) $@.log || true

$(MODULE_HOST_OBJ): src/engine/base/error.c
	@mkdir -p $(@D)
	$(ENGINE_CC) $(ENGINE_CFLAGS) -fPIC -fvisibility=hidden -c -o $@ $<

$(ENGINE_BUILD)/ia3_cuda.so: $(CUDA_OBJS) $(MODULE_HOST_OBJ)
	$(NVCC) -shared -cudart static -o $@ $^ $(if $(CUDA_LIB),-L$(CUDA_LIB) -Xlinker -rpath$(,)$(CUDA_LIB)) -Xlinker --exclude-libs,ALL -lcublasLt

# `make` builds this in addition to the engine. Without a usable nvcc it only prints a message, and removes the module of
# an earlier build, which would not fit the engine.
ifeq ($(CUDA_REFUSED),)
cuda-module: ia3_cuda.so
ia3_cuda.so: $(ENGINE_BUILD)/ia3_cuda.so
	cp $< $@
else
cuda-module:
	@echo "$(CUDA_REFUSED): ia3_cuda.so, the module for NVIDIA GPUs, is not built"
	@rm -f ia3_cuda.so
endif

# The same sources for a GPU that is simulated on the CPU (test/cudasim), for tests on machines without a GPU.
CUDASIM_OBJS = $(patsubst kernels/cuda/%.cu,$(ENGINE_BUILD)/cudasim/%.o,$(filter-out kernels/cuda/gemm.cu,$(CUDA_SRCS))) \
	$(patsubst test/cudasim/%.cpp,$(ENGINE_BUILD)/cudasim/%.o,$(wildcard test/cudasim/*.cpp))
CUDASIM_CXXFLAGS = $(ENGINE_INCLUDES) -std=c++17 -O2 $(DEBUG_INFO) -DIA3_CUDA_SIM='"test/cudasim/cudasim.h"' -fPIC -fvisibility=hidden $(OPTFLAGS) $(TEST_OPTFLAGS) $(ENGINE_WARN) \
	-Wno-unknown-pragmas $(SANITIZE) -pthread -MMD -MP

# A GPU cannot load unaligned vectors.
$(ENGINE_BUILD)/cudasim/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D)
	$(ENGINE_CXX) $(CUDASIM_CXXFLAGS) -fsanitize=alignment -fsanitize-undefined-trap-on-error -x c++ -c -o $@ $<

# The simulator's matrix products take most of the time of large tests.
$(ENGINE_BUILD)/cudasim/gemm_sim.o: CUDASIM_CXXFLAGS += -O3

$(ENGINE_BUILD)/cudasim/%.o: test/cudasim/%.cpp
	@mkdir -p $(@D)
	$(ENGINE_CXX) $(CUDASIM_CXXFLAGS) -c -o $@ $<

$(ENGINE_BUILD)/ia3_cuda_sim.so: $(CUDASIM_OBJS) $(MODULE_HOST_OBJ)
	$(ENGINE_CXX) $(SANITIZE) -shared -o $@ $^ -pthread

$(ENGINE_BUILD)/test/test_device_module: $(ENGINE_BUILD)/ia3_cuda_sim.so

# Runs all test programs, which print cmocka's summaries, and fails at the end with the names of those that failed.
check-engine: $(ENGINE_TESTS)
	@failed=; for t in $(ENGINE_TESTS); do $$t || failed="$$failed $$t"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

# Compiles everything without linking, which is possible for another architecture without its libraries.
engine-objects: $(ENGINE_MAIN) $(ENGINE_OBJS)

always:

.PHONY: check-engine engine-objects always
.SECONDARY:

-include $(CUDA_OBJS:.o=.d) $(CUDASIM_OBJS:.o=.d) $(MODULE_HOST_OBJ:.o=.d)
-include $(ENGINE_CC_OBJS:.o=.d) $(KERNEL_OBJS:.o=.d) $(ENGINE_MAIN:.o=.d)
-include $(ENGINE_TESTS:=.d) $(ENGINE_TEST_HELPERS:.o=.d) $(patsubst bench/%.c,$(ENGINE_BUILD)/bench/%.d,$(wildcard bench/*.c)) $(BENCH_PROFILE_OBJS:.o=.d)
