# ia3: few-shot fine-tuning as a SQL function.
#
#   make                builds ia3.so (the extension), ia3_engine (the engine) and, where nvcc is found, ia3_cuda.so
#   make install        installs all three, the SQL scripts and the bundled backbone
#   make installcheck   the regression tests with what is installed, on a temporary server; PGHOST or PGPORT names a
#                       running one, which has to have shared_preload_libraries = 'ia3' and
#                       ia3.backbones = 'default=/path/of/test/backbone'
#   make check-engine   unit and golden tests of the engine, no PostgreSQL needed
#   make OPTFLAGS=...   one build of the kernels with these flags (default or empty: several, the best taken at start)

EXTENSION = ia3
EXTVERSION = 1.0
MODULE_big = ia3
DATA = $(wildcard sql/*--*.sql)
OBJS = $(patsubst %.c,%.o,$(wildcard src/extension/*.c src/extension/*/*.c))
IA3_COMMON_HEADERS = $(wildcard src/common/*.h)

# Inputs of regression tests lie beside the extension's scripts, outputs in expected/.
REGRESS = $(patsubst sql/%.sql,%,$(filter-out $(DATA),$(wildcard sql/*.sql)))
REGRESS_OPTS = --load-extension=ia3 --encoding=UTF8
ifeq ($(PGHOST)$(PGPORT)$(PGSERVICE),)
# No server is named, and a server that happens to run here rarely has ia3 preloaded.
REGRESS_OPTS += --temp-instance=./tmp_check --temp-config=regression.conf --no-locale
endif

PG_CONFIG ?= pg_config
PG_CPPFLAGS = -Isrc
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers \
	-Wno-sign-compare -Wno-declaration-after-statement $(WERROR)
EXTRA_CLEAN = ia3_engine ia3_cuda.so build tmp_check regression.conf

all: ia3_engine cuda-module

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

include src/engine/engine.mk

$(OBJS): $(IA3_COMMON_HEADERS) $(wildcard src/extension/*.h src/extension/*/*.h)

# The checkpoint itself, without the recipe that makes the next one.
IA3_MINI = LICENSE NOTICE README.md config.json model.safetensors spiece.model tokenizer_config.json

install: install-engine
install-engine: ia3_engine cuda-module
	$(MKDIR_P) '$(DESTDIR)$(pkglibdir)' '$(DESTDIR)$(datadir)/ia3/ia3-mini'
	$(INSTALL_PROGRAM) ia3_engine '$(DESTDIR)$(pkglibdir)/ia3_engine'
	if [ -f ia3_cuda.so ]; then $(INSTALL_SHLIB) ia3_cuda.so '$(DESTDIR)$(pkglibdir)/ia3_cuda.so'; fi
	$(INSTALL_DATA) $(addprefix models/ia3-mini/,$(IA3_MINI)) '$(DESTDIR)$(datadir)/ia3/ia3-mini/'

uninstall: uninstall-engine
uninstall-engine:
	rm -f '$(DESTDIR)$(pkglibdir)/ia3_engine' '$(DESTDIR)$(pkglibdir)/ia3_cuda.so'
	rm -rf '$(DESTDIR)$(datadir)/ia3'

# initdb would only say that it cannot be run as root.
ifneq ($(findstring --temp-instance,$(REGRESS_OPTS)),)
installcheck: not-root regression.conf
endif
# A setting names a backbone by an absolute path, which changes when the checkout is moved.
regression.conf:
	sed 's,@CHECKOUT@,$(CURDIR),' test/regress.conf >$@
not-root:
	@[ "$$(id -u)" != 0 ] || { echo "PostgreSQL's server cannot be run as root: run 'make installcheck' as another user," \
		"or name a running server with PGHOST or PGPORT, or run 'scripts/test regress', which takes care of it"; exit 1; }

.PHONY: install-engine uninstall-engine not-root regression.conf
