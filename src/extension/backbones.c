/*
 * backbones.c
 *     Parses ia3.backbones: "name=path[@device][:dtype], ...".
 *
 * Blanks around the parts are ignored. A path may be quoted with " or ', a quote inside is doubled; then it
 * may contain anything. In an unquoted path '@' and ':' belong to the path when a '/' follows them, so that
 * /models@v2/t5 needs no quotes, while /models/t5@v2 does (its end would be a device).
 */
#include "ia3.h"

#include <ctype.h>

static const char *const knownDtypes[] = {"auto", "float32", "bfloat16"};

typedef struct Scanner {
    const char *p;
    char *error; /* first error, palloc'd */
} Scanner;

static void Fail(Scanner *scan, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
Fail(Scanner *scan, const char *format, ...)
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
SkipBlanks(Scanner *scan)
{
    while (isspace((unsigned char) *scan->p))
        scan->p++;
}

/* Copies [start, end) without trailing blanks; fails when it is empty or does not fit. */
static void
CopyPart(Scanner *scan, const char *what, const char *start, const char *end, char *dst, size_t size)
{
    while (end > start && isspace((unsigned char) end[-1]))
        end--;
    if (end == start && *start == '\0')
        Fail(scan, "A %s is missing at the end.", what);
    else if (end == start)
        Fail(scan, "A %s is missing before \"%.40s\".", what, start);
    else if ((size_t) (end - start) >= size)
        Fail(scan, "The %s \"%.40s...\" is longer than %d bytes.", what, start, (int) size - 1);
    else {
        memcpy(dst, start, end - start);
        dst[end - start] = '\0';
    }
}

/* The name becomes part of a socket's file name and of messages, hence the narrow alphabet. */
static void
ScanName(Scanner *scan, Ia3BackboneSpec *spec)
{
    const char *start;

    SkipBlanks(scan);
    start = scan->p;
    while (isalnum((unsigned char) *scan->p) || *scan->p == '_' || *scan->p == '-')
        scan->p++;
    CopyPart(scan, "backbone name", start, scan->p, spec->name, sizeof spec->name);
    SkipBlanks(scan);
    if (scan->error != NULL)
        return;
    if (*scan->p == '=')
        scan->p++;
    else
        Fail(scan,
             "Expected \"=\" after the backbone name \"%s\"; names consist of letters, digits, \"_\" and "
             "\"-\".",
             spec->name);
}

static void
ScanQuotedPath(Scanner *scan, Ia3BackboneSpec *spec)
{
    char quote = *scan->p++;
    size_t n = 0;

    for (;; scan->p++) {
        if (*scan->p == '\0') {
            Fail(scan, "The quoted path of backbone \"%s\" does not end.", spec->name);
            return;
        }
        if (*scan->p == quote && *++scan->p != quote)
            break;
        if (n + 1 >= sizeof spec->path) {
            Fail(scan, "The path of backbone \"%s\" is too long.", spec->name);
            return;
        }
        spec->path[n++] = *scan->p;
    }
    spec->path[n] = '\0';
    if (n == 0)
        Fail(scan, "The path of backbone \"%s\" is empty.", spec->name);
    SkipBlanks(scan);
}

static void
ScanPath(Scanner *scan, Ia3BackboneSpec *spec)
{
    const char *start;
    const char *end;

    SkipBlanks(scan);
    if (*scan->p == '"' || *scan->p == '\'') {
        ScanQuotedPath(scan, spec);
        return;
    }
    start = scan->p;
    end = start + strcspn(start, ",");
    for (; scan->p < end; scan->p++) {
        if (*scan->p != '@' && *scan->p != ':')
            continue;
        if (memchr(scan->p, '/', end - scan->p) == NULL)
            break;
    }
    CopyPart(scan, "path", start, scan->p, spec->path, sizeof spec->path);
}

/* A device is a word with an optional number: cpu, cuda, cuda:1. Which ones exist, the engine knows. */
static void
ScanDevice(Scanner *scan, Ia3BackboneSpec *spec)
{
    const char *start;

    strlcpy(spec->device, "cpu", sizeof spec->device);
    if (*scan->p != '@')
        return;
    scan->p++;
    SkipBlanks(scan);
    start = scan->p;
    while (islower((unsigned char) *scan->p))
        scan->p++;
    if (scan->p > start && *scan->p == ':' && isdigit((unsigned char) scan->p[1])) {
        scan->p++;
        while (isdigit((unsigned char) *scan->p))
            scan->p++;
    }
    CopyPart(scan, "device", start, scan->p, spec->device, sizeof spec->device);
    SkipBlanks(scan);
    if (*scan->p != '\0' && *scan->p != ',' && *scan->p != ':')
        Fail(scan,
             "Backbone \"%s\" names an invalid device: \"@%.*s\". A path that contains \"@\" must be quoted.",
             spec->name, (int) strcspn(start, ","), start);
}

static void
ScanDtype(Scanner *scan, Ia3BackboneSpec *spec)
{
    const char *start;

    strlcpy(spec->dtype, "auto", sizeof spec->dtype);
    if (*scan->p != ':')
        return;
    scan->p++;
    SkipBlanks(scan);
    start = scan->p;
    scan->p += strcspn(scan->p, ",");
    CopyPart(scan, "dtype", start, scan->p, spec->dtype, sizeof spec->dtype);
    if (scan->error != NULL)
        return;
    for (int i = 0; i < lengthof(knownDtypes); i++)
        if (strcmp(spec->dtype, knownDtypes[i]) == 0)
            return;
    if (strcmp(spec->dtype, "float16") == 0)
        Fail(scan, "Backbone \"%s\": T5 overflows in float16; use bfloat16.", spec->name);
    else
        Fail(scan,
             "Backbone \"%s\" names an unknown dtype \"%s\"; known are auto, float32 and bfloat16. A path "
             "that "
             "contains \":\" must be quoted.",
             spec->name, spec->dtype);
}

/* A bare name is a directory of the extension's share directory. */
static void
ResolvePath(Scanner *scan, Ia3BackboneSpec *spec)
{
    char share[MAXPGPATH];
    char bare[MAXPGPATH];

    if (scan->error != NULL || is_absolute_path(spec->path))
        return;
    if (strchr(spec->path, '/') != NULL || strcmp(spec->path, ".") == 0 || strcmp(spec->path, "..") == 0) {
        Fail(scan, "The path \"%s\" of backbone \"%s\" is neither absolute nor a bare name.", spec->path,
             spec->name);
        return;
    }
    strlcpy(bare, spec->path, sizeof bare);
    get_share_path(my_exec_path, share);
    if (snprintf(spec->path, sizeof spec->path, "%s/ia3/%s", share, bare) >= (int) sizeof spec->path)
        Fail(scan, "The path of backbone \"%s\" is too long.", spec->name);
}

static void
ScanEntry(Scanner *scan, Ia3BackboneSpec *spec)
{
    memset(spec, 0, sizeof *spec);
    ScanName(scan, spec);
    if (scan->error == NULL)
        ScanPath(scan, spec);
    if (scan->error == NULL)
        ScanDevice(scan, spec);
    if (scan->error == NULL)
        ScanDtype(scan, spec);
    SkipBlanks(scan);
    if (scan->error == NULL && *scan->p != '\0' && *scan->p != ',')
        Fail(scan, "Unexpected \"%.40s\" after the path of backbone \"%s\".", scan->p, spec->name);
    ResolvePath(scan, spec);
}

/*
 * Parses `setting` into specs[IA3_MAX_BACKBONES]. Returns the number of entries (an empty setting has none),
 * or -1 with *error set to a full sentence (palloc'd). Never raises an error of its own: it also runs in
 * the GUC check hook, inside the postmaster.
 */
int
Ia3ParseBackbones(const char *setting, Ia3BackboneSpec *specs, char **error)
{
    Scanner scan = {setting != NULL ? setting : "", NULL};
    int n = 0;

    *error = NULL;
    SkipBlanks(&scan);
    if (*scan.p == '\0')
        return 0;
    for (;;) {
        if (n == IA3_MAX_BACKBONES) {
            Fail(&scan, "There can be at most %d backbones.", IA3_MAX_BACKBONES);
            break;
        }
        ScanEntry(&scan, &specs[n]);
        for (int i = 0; i < n && scan.error == NULL; i++)
            if (strcmp(specs[i].name, specs[n].name) == 0)
                Fail(&scan, "The backbone name \"%s\" occurs twice.", specs[n].name);
        n++;
        if (scan.error != NULL || *scan.p == '\0')
            break;
        scan.p++; /* the comma */
    }
    *error = scan.error;
    return scan.error != NULL ? -1 : n;
}
