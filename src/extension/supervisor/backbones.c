/*
 * backbones.c
 *     Parses ia3.backbones: "name=path[@device[|device...]][:dtype][#sha256=digest], ...".
 *
 * A device is cpu, cuda (that is cuda:0), cuda:N or auto; "@cuda:1:bfloat16" is the device cuda:1, since a dtype begins
 * with a letter. A backbone with several devices has an engine for each. They must be of one kind: CPUs and GPUs round
 * differently, and the result of a statement or of a seed must not depend on which engine was free.
 *
 * Blanks around the parts are ignored. A path may be quoted with " or ', and may then contain anything; a quote inside
 * is doubled. In an unquoted path '@' and ':' belong to the path when a '/' follows them, so that /models@v2/t5 needs
 * no quotes, while /models/t5@v2 does (its end would be a device).
 */
#include "postgres.h"

#include <ctype.h>

#include "miscadmin.h"

#include "backbones.h"
#include "extension/guc.h"

/* Bytes of the setting that a message shows, so that its end is never cut off. */
#define MAX_QUOTED 200

#define SHA256_PREFIX "#sha256="

static const char *const knownDtypes[] = {"auto", "float32", "bfloat16", "int8"};

typedef struct Scanner {
    const char *p;
    char *error; /* first error, palloc'd */
} Scanner;

static void fail(Scanner *scan, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
fail(Scanner *scan, const char *format, ...)
{
    va_list args;
    char buffer[1024];

    if (scan->error != NULL)
        return;
    va_start(args, format);
    vsnprintf(buffer, sizeof buffer, format, args);
    va_end(args);
    scan->error = pstrdup(buffer);
}

static void
skip_blanks(Scanner *scan)
{
    while (isspace((unsigned char) *scan->p))
        scan->p++;
}

/* Copies [start, end) without trailing blanks; fails when it is empty or does not fit. */
static void
copy_part(Scanner *scan, const char *what, const char *start, const char *end, char *dst, size_t size)
{
    while (end > start && isspace((unsigned char) end[-1]))
        end--;
    if (end == start && *start == '\0')
        fail(scan, "A %s is missing at the end.", what);
    else if (end == start)
        fail(scan, "A %s is missing before \"%.40s\".", what, start);
    else if ((size_t) (end - start) >= size)
        fail(scan, "The %s \"%.40s...\" is longer than %d bytes.", what, start, (int) size - 1);
    else {
        memcpy(dst, start, end - start);
        dst[end - start] = '\0';
    }
}

/* The name becomes part of a socket's file name and of messages, hence the narrow alphabet. */
static void
scan_name(Scanner *scan, Ia3BackboneSpec *spec)
{
    const char *start;

    skip_blanks(scan);
    start = scan->p;
    while (isalnum((unsigned char) *scan->p) || *scan->p == '_' || *scan->p == '-')
        scan->p++;
    copy_part(scan, "backbone name", start, scan->p, spec->name, sizeof spec->name);
    skip_blanks(scan);
    if (scan->error != NULL)
        return;
    if (*scan->p == '=')
        scan->p++;
    else
        fail(scan,
             "Expected \"=\" after the backbone name \"%s\"; names consist of letters, digits, \"_\" and "
             "\"-\".",
             spec->name);
}

/* Whether the digest of the weights follows. */
static bool
at_sha256(const Scanner *scan)
{
    return strncmp(scan->p, SHA256_PREFIX, strlen(SHA256_PREFIX)) == 0;
}

/* Reads the digest, if there is one. Its letters become lower case. */
static void
scan_sha256(Scanner *scan, Ia3BackboneSpec *spec)
{
    size_t n;

    skip_blanks(scan);
    if (scan->error != NULL || !at_sha256(scan))
        return;
    scan->p += strlen(SHA256_PREFIX);
    n = strspn(scan->p, "0123456789abcdefABCDEF");
    if (n != sizeof spec->sha256 - 1) {
        fail(scan, "The SHA-256 of backbone \"%s\" must have %d hexadecimal digits.", spec->name,
             (int) sizeof spec->sha256 - 1);
        return;
    }
    for (size_t i = 0; i < n; i++)
        spec->sha256[i] = pg_tolower((unsigned char) scan->p[i]);
    scan->p += n;
}

static void
scan_quoted_path(Scanner *scan, Ia3BackboneSpec *spec)
{
    char quote = *scan->p++;
    size_t n = 0;

    for (;; scan->p++) {
        if (*scan->p == '\0') {
            fail(scan, "The quoted path of backbone \"%s\" does not end.", spec->name);
            return;
        }
        if (*scan->p == quote && *++scan->p != quote)
            break;
        if (n + 1 >= sizeof spec->path) {
            fail(scan, "The path of backbone \"%s\" is too long.", spec->name);
            return;
        }
        spec->path[n++] = *scan->p;
    }
    spec->path[n] = '\0';
    if (n == 0)
        fail(scan, "The path of backbone \"%s\" is empty.", spec->name);
    skip_blanks(scan);
}

static void
scan_path(Scanner *scan, Ia3BackboneSpec *spec)
{
    const char *start;
    const char *end;

    skip_blanks(scan);
    if (*scan->p == '"' || *scan->p == '\'') {
        scan_quoted_path(scan, spec);
        return;
    }
    start = scan->p;
    end = start + strcspn(start, ",");
    for (; scan->p < end; scan->p++) {
        if (at_sha256(scan))
            break;
        if (*scan->p != '@' && *scan->p != ':')
            continue;
        if (memchr(scan->p, '/', end - scan->p) == NULL)
            break;
    }
    copy_part(scan, "path", start, scan->p, spec->path, sizeof spec->path);
}

typedef char DeviceName[sizeof((Ia3BackboneSpec *) NULL)->device];

static bool
is_gpu(const char *device)
{
    return strncmp(device, "cuda:", 5) == 0;
}

/* Checks what can be known of the last device without opening it. Two engines may share the cores, but not a GPU. */
static void
check_devices(Scanner *scan, const Ia3BackboneSpec *spec, const DeviceName *devices, int n)
{
    const char *last = devices[n - 1];

    if (strcmp(last, "cpu") != 0 && strcmp(last, "auto") != 0 && !is_gpu(last))
        fail(scan,
             "Backbone \"%s\" names an unknown device \"%s\"; the known devices are cpu, cuda, cuda:N and "
             "auto. A path "
             "that contains \"@\" must be quoted.",
             spec->name, last);
    for (int i = 0; i < n && n > 1; i++)
        if (strcmp(devices[i], "auto") == 0)
            fail(scan, "Backbone \"%s\" has the device \"auto\" in a list; it must stand alone.", spec->name);
    for (int i = 0; i < n - 1; i++)
        if (is_gpu(last) && strcmp(devices[i], last) == 0)
            fail(scan, "Backbone \"%s\" names the device \"%s\" twice.", spec->name, last);
        else if (is_gpu(last) != is_gpu(devices[i]))
            fail(
                scan,
                "Backbone \"%s\" has the devices \"%s\" and \"%s\"; they must be of one kind, since CPUs and "
                "GPUs round differently.",
                spec->name, devices[i], last);
}

/* Int8 is for the CPU; with it, "auto" means the CPU. */
static void
check_dtype(Scanner *scan, const Ia3BackboneSpec *spec, const char *device)
{
    if (strcmp(spec->dtype, "int8") == 0 && is_gpu(device))
        fail(scan, "Backbone \"%s\" has the device \"%s\", but int8 is for the CPU; use bfloat16.",
             spec->name, device);
}

/* Reads a word, for "cuda" perhaps with a number. The result has one spelling: "cuda" and "cuda:00" become "cuda:0". */
static void
scan_device(Scanner *scan, const Ia3BackboneSpec *spec, DeviceName device)
{
    const char *start;
    char *colon;

    skip_blanks(scan);
    start = scan->p;
    while (isalnum((unsigned char) *scan->p) || *scan->p == '_')
        scan->p++;
    if (scan->p > start && *scan->p == ':' && isdigit((unsigned char) scan->p[1])) {
        scan->p++;
        while (isdigit((unsigned char) *scan->p))
            scan->p++;
    }
    copy_part(scan, "device", start, scan->p, device, sizeof(DeviceName));
    if (scan->error != NULL)
        return;
    if (strcmp(device, "cuda") == 0)
        strlcpy(device, "cuda:0", sizeof(DeviceName));
    colon = strchr(device, ':');
    if (colon != NULL) {
        char *digits = colon + 1 + strspn(colon + 1, "0");

        if (*digits == '\0')
            digits--;
        memmove(colon + 1, digits, strlen(digits) + 1);
    }
    skip_blanks(scan);
    if (*scan->p != '\0' && *scan->p != ',' && *scan->p != ':' && *scan->p != '|' && !at_sha256(scan))
        fail(scan,
             "Backbone \"%s\" names an invalid device: \"%.*s\". A path that contains \"@\" must be quoted.",
             spec->name, Min(MAX_QUOTED, (int) strcspn(start, ",|#")), start);
}

/* Returns how many devices there are. */
static int
scan_devices(Scanner *scan, const Ia3BackboneSpec *spec, DeviceName *devices)
{
    int n = 0;

    strlcpy(devices[0], "cpu", sizeof devices[0]);
    if (*scan->p != '@')
        return 1;
    do {
        scan->p++;
        if (n == IA3_MAX_DEVICES) {
            fail(scan, "Backbone \"%s\" has more than %d devices.", spec->name, IA3_MAX_DEVICES);
            break;
        }
        scan_device(scan, spec, devices[n]);
        if (scan->error == NULL)
            check_devices(scan, spec, devices, ++n);
    } while (scan->error == NULL && *scan->p == '|');
    return n;
}

static void
scan_dtype(Scanner *scan, Ia3BackboneSpec *spec)
{
    const char *start;

    strlcpy(spec->dtype, "auto", sizeof spec->dtype);
    if (*scan->p != ':')
        return;
    scan->p++;
    skip_blanks(scan);
    start = scan->p;
    scan->p += strcspn(scan->p, ",#");
    copy_part(scan, "dtype", start, scan->p, spec->dtype, sizeof spec->dtype);
    if (scan->error != NULL)
        return;
    for (int i = 0; i < lengthof(knownDtypes); i++)
        if (strcmp(spec->dtype, knownDtypes[i]) == 0)
            return;
    if (strcmp(spec->dtype, "float16") == 0)
        fail(scan, "Backbone \"%s\": T5 overflows in float16; use bfloat16.", spec->name);
    else
        fail(
            scan,
            "Backbone \"%s\" names an unknown dtype \"%s\"; the known dtypes are auto, float32, bfloat16 and "
            "int8. A path that contains \":\" must be quoted.",
            spec->name, spec->dtype);
}

/* ORGANIZATION/NAME, which the engine looks up in the local cache of Hugging Face's hub. */
static bool
is_hub_name(const char *path)
{
    const char *slash = strchr(path, '/');

    for (const char *p = path; *p != '\0'; p++)
        if (!isalnum((unsigned char) *p) && strchr("-_./", *p) == NULL)
            return false;
    return slash != NULL && slash != path && path[0] != '.' && slash[1] != '\0' && slash[1] != '.' &&
           strchr(slash + 1, '/') == NULL && strstr(path, "..") == NULL;
}

/* A bare name is a directory of the extension's share directory. */
static void
resolve_path(Scanner *scan, Ia3BackboneSpec *spec)
{
    char share[MAXPGPATH];
    char bare[MAXPGPATH];

    if (scan->error != NULL || is_absolute_path(spec->path) || is_hub_name(spec->path))
        return;
    if (strchr(spec->path, '/') != NULL || strcmp(spec->path, ".") == 0 || strcmp(spec->path, "..") == 0) {
        fail(scan,
             "The path \"%.*s\" of backbone \"%s\" is neither absolute nor a bare name nor a name on the "
             "Hugging Face hub (ORGANIZATION/NAME).",
             MAX_QUOTED, spec->path, spec->name);
        return;
    }
    strlcpy(bare, spec->path, sizeof bare);
    get_share_path(my_exec_path, share);
    if (snprintf(spec->path, sizeof spec->path, "%s/ia3/%s", share, bare) >= (int) sizeof spec->path)
        fail(scan, "The path of backbone \"%s\" is too long.", spec->name);
}

char *
Ia3ResolveBackbonePath(const char *path, Ia3BackboneSpec *spec)
{
    Scanner scan = {"", NULL};

    memset(spec, 0, sizeof *spec);
    strlcpy(spec->name, path, sizeof spec->name);
    copy_part(&scan, "path", path, path + strlen(path), spec->path, sizeof spec->path);
    resolve_path(&scan, spec);
    return scan.error;
}

/* Makes one spec for each device; *n grows by their number. */
static void
expand_devices(Scanner *scan, Ia3BackboneSpec *specs, int *n, const DeviceName *devices, int nDevices)
{
    const Ia3BackboneSpec entry = specs[*n];
    int cpuEngines = 0;

    if (*n + nDevices > IA3_MAX_CONFIGURED) {
        fail(scan, "There can be at most %d engines.", IA3_MAX_CONFIGURED);
        return;
    }
    for (int i = 0; i < nDevices; i++)
        cpuEngines += strcmp(devices[i], "cpu") == 0;
    for (int i = 0; i < nDevices; i++) {
        Ia3BackboneSpec *spec = &specs[(*n)++];

        *spec = entry;
        strlcpy(spec->device, devices[i], sizeof spec->device);
        spec->nDevices = nDevices;
        spec->cpuEngines = cpuEngines;
    }
}

/* Reads an entry of the list into specs[*n] and the following. */
static void
scan_entry(Scanner *scan, Ia3BackboneSpec *specs, int *n)
{
    DeviceName devices[IA3_MAX_DEVICES];
    Ia3BackboneSpec *spec = &specs[*n];
    int nDevices = 0;

    scan_name(scan, spec);
    if (scan->error == NULL)
        scan_path(scan, spec);
    if (scan->error == NULL)
        nDevices = scan_devices(scan, spec, devices);
    if (scan->error == NULL)
        scan_dtype(scan, spec);
    if (scan->error == NULL)
        check_dtype(scan, spec, devices[0]);
    scan_sha256(scan, spec);
    skip_blanks(scan);
    if (scan->error == NULL && *scan->p != '\0' && *scan->p != ',')
        fail(scan, "Unexpected \"%.40s\" after the path of backbone \"%s\".", scan->p, spec->name);
    resolve_path(scan, spec);
    for (int i = 0; i < *n && scan->error == NULL; i++)
        if (strcmp(specs[i].name, spec->name) == 0)
            fail(scan, "The backbone name \"%s\" occurs twice.", spec->name);
    if (scan->error == NULL)
        expand_devices(scan, specs, n, devices, nDevices);
}

/* Returns the number of engines up to the first error; the entry with the error has its name in specs[n], if any. */
static int
scan_list(Scanner *scan, Ia3BackboneSpec *specs)
{
    int n = 0;

    skip_blanks(scan);
    if (*scan->p == '\0')
        return 0;
    for (int entries = 0;; entries++) {
        if (n < IA3_MAX_CONFIGURED)
            memset(&specs[n], 0, sizeof specs[n]);
        if (entries == IA3_MAX_BACKBONES)
            fail(scan, "There can be at most %d backbones.", IA3_MAX_BACKBONES);
        else if (n == IA3_MAX_CONFIGURED)
            fail(scan, "There can be at most %d engines.", IA3_MAX_CONFIGURED);
        else
            scan_entry(scan, specs, &n);
        if (scan->error != NULL || *scan->p == '\0')
            break;
        scan->p++; /* the comma */
    }
    return n;
}

int
Ia3ParseBackbones(const char *setting, Ia3BackboneSpec *specs, char **error)
{
    Scanner scan = {setting != NULL ? setting : "", NULL};
    int n = scan_list(&scan, specs);

    *error = scan.error;
    return scan.error != NULL ? -1 : n;
}

int
Ia3NamedBackbones(const char *setting, Ia3BackboneSpec *specs)
{
    Scanner scan = {setting != NULL ? setting : "", NULL};
    int n = scan_list(&scan, specs);
    bool isNew;

    if (scan.error == NULL || n == IA3_MAX_CONFIGURED)
        return n;
    isNew = specs[n].name[0] != '\0';
    for (int i = 0; i < n; i++)
        if (strcmp(specs[i].name, specs[n].name) == 0)
            isNew = false;
    if (isNew)
        return n + 1;
    if (n == 0)
        strlcpy(specs[0].name, IA3_DEFAULT_BACKBONE, sizeof specs[0].name);
    return Max(n, 1);
}

bool
Ia3CheckBackbones(char **newval, void **extra, GucSource source)
{
    Ia3BackboneSpec *specs;
    char *error = NULL;
    int n;

    specs = palloc(sizeof(Ia3BackboneSpec) * IA3_MAX_CONFIGURED);
    n = Ia3ParseBackbones(*newval, specs, &error);
    pfree(specs);
    if (n >= 0)
        return true;
    if (process_shared_preload_libraries_in_progress) {
        ereport(
            WARNING,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("invalid value for parameter \"%s\": \"%s\"", "ia3.backbones", *newval),
             errdetail("%s", error),
             errhint(
                 "No engine is started before the value is corrected and the configuration is reloaded.")));
        return true;
    }
    GUC_check_errdetail("%s", error);
    GUC_check_errhint(
        "The value is a list like \"name=path[@device[|device...]][:dtype][#sha256=digest], ...\".");
    return false;
}
