/*
 * fuzz_backbones.c
 *     Fuzzes the parser of ia3.backbones.
 */
#include "pg_standin.h"

#include "extension/supervisor/backbones.h"
#include "miscadmin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

char my_exec_path[MAXPGPATH] = "/usr/lib/postgresql/bin/postgres";
bool process_shared_preload_libraries_in_progress;
char *GUC_check_errdetail_string, *GUC_check_errhint_string;

char *
format_elog_string(const char *format, ...)
{
    return "";
}

void
pre_format_elog_string(int error, const char *domain)
{
}

static void
check_string(const char *s, size_t size)
{
    if (s[0] == '\0' || memchr(s, 0, size) == NULL)
        abort();
}

static void
check_spec(const Ia3BackboneSpec *spec)
{
    check_string(spec->name, sizeof spec->name);
    check_string(spec->path, sizeof spec->path);
    check_string(spec->device, sizeof spec->device);
    check_string(spec->dtype, sizeof spec->dtype);
    /* absolute, or a name on the hub, which cannot lead out of the cache */
    if ((spec->path[0] != '/' && (strchr(spec->path, '/') == NULL || strstr(spec->path, "..") != NULL)) ||
        spec->nDevices < 1 || spec->nDevices > IA3_MAX_DEVICES || spec->cpuEngines < 0 ||
        spec->cpuEngines > spec->nDevices)
        abort();
}

static void
try_setting(void *arg)
{
    char *setting = arg, *error = NULL;
    void *extra = NULL;
    Ia3BackboneSpec *specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_CONFIGURED);
    int n = Ia3ParseBackbones(setting, specs, &error), named;

    if ((n < 0) != (error != NULL) || n > IA3_MAX_CONFIGURED)
        abort();
    for (int i = 0; i < n; i++)
        check_spec(&specs[i]);
    if (error != NULL && (error[0] == '\0' || error[strlen(error) - 1] != '.'))
        abort();
    named = Ia3NamedBackbones(setting, specs);
    if (named > IA3_MAX_CONFIGURED || (n < 0 ? named < 1 : named != n))
        abort();
    for (int i = 0; i < named; i++)
        check_string(specs[i].name, sizeof specs[i].name);
    process_shared_preload_libraries_in_progress = true;
    if (!Ia3CheckBackbones(&setting, &extra, PGC_S_FILE))
        abort();
    process_shared_preload_libraries_in_progress = false;
    if (Ia3CheckBackbones(&setting, &extra, PGC_S_FILE) != (n >= 0))
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* a setting need not be valid in any encoding */
    char *setting = memchr(data, 0, size) == NULL ? pnstrdup((const char *) data, size) : NULL;

    if (setting != NULL && !pg_run(try_setting, setting))
        abort();
    pg_reset();
    return 0;
}
