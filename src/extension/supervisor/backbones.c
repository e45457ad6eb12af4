/*
 * backbones.c
 *     Parses ia3.backbones: "name=path[@device[|device...]][:dtype], ...".
 *
 * A device is cpu, cuda (that is cuda:0), cuda:N or auto; "@cuda:1:bfloat16" is the device cuda:1, since a dtype
 * begins with a letter. Several devices make as many engines of one backbone; they are of one kind, since CPUs and
 * GPUs round differently, and what a statement or a seed gives must not depend on which engine was free.
 *
 * Blanks around the parts are ignored. A path may be quoted with " or ', a quote inside is doubled; then it
 * may contain anything. In an unquoted path '@' and ':' belong to the path when a '/' follows them, so that
 * /models@v2/t5 needs no quotes, while /models/t5@v2 does (its end would be a device).
 */
#include "extension/ia3.h"

#include <ctype.h>

static const char *const knownDtypes[] = {"auto", "float32", "bfloat16", "int8"};

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

typedef char DeviceName[sizeof((Ia3BackboneSpec *) NULL)->device];

static bool
IsGpu(const char *device)
{
    return strncmp(device, "cuda:", 5) == 0;
}

/* What is known of a device without asking for it. Two engines may share the cores, but not a GPU. */
static void
CheckDevices(Scanner *scan, const Ia3BackboneSpec *spec, const DeviceName *devices, int n)
{
    const char *last = devices[n - 1];

    if (strcmp(last, "cpu") != 0 && strcmp(last, "auto") != 0 && !IsGpu(last))
        Fail(scan,
             "Backbone \"%s\" names an unknown device \"%s\"; known are cpu, cuda, cuda:N and auto. A path "
             "that contains \"@\" must be quoted.",
             spec->name, last);
    for (int i = 0; i < n && n > 1; i++)
        if (strcmp(devices[i], "auto") == 0)
            Fail(scan, "Backbone \"%s\" has the device \"auto\" in a list; it stands alone.", spec->name);
    for (int i = 0; i < n - 1; i++)
        if (IsGpu(last) && strcmp(devices[i], last) == 0)
            Fail(scan, "Backbone \"%s\" names the device \"%s\" twice.", spec->name, last);
        else if (IsGpu(last) != IsGpu(devices[i]))
            Fail(
                scan,
                "Backbone \"%s\" has the devices \"%s\" and \"%s\"; they must be of one kind, since CPUs and "
                "GPUs round differently.",
                spec->name, devices[i], last);
}

/* Int8 is for the CPU; "auto" takes it then. */
static void
CheckDtype(Scanner *scan, const Ia3BackboneSpec *spec, const char *device)
{
    if (strcmp(spec->dtype, "int8") == 0 && IsGpu(device))
        Fail(scan, "Backbone \"%s\" has the device \"%s\", but int8 is for the CPU; use bfloat16.",
             spec->name, device);
}

/* A word, for "cuda" perhaps with a number. Either has one form: "cuda" is "cuda:0", "cuda:01" is "cuda:1". */
static void
ScanDevice(Scanner *scan, const Ia3BackboneSpec *spec, DeviceName device)
{
    const char *start;
    char *colon;

    SkipBlanks(scan);
    start = scan->p;
    while (isalnum((unsigned char) *scan->p) || *scan->p == '_')
        scan->p++;
    if (scan->p > start && *scan->p == ':' && isdigit((unsigned char) scan->p[1])) {
        scan->p++;
        while (isdigit((unsigned char) *scan->p))
            scan->p++;
    }
    CopyPart(scan, "device", start, scan->p, device, sizeof(DeviceName));
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
    SkipBlanks(scan);
    if (*scan->p != '\0' && *scan->p != ',' && *scan->p != ':' && *scan->p != '|')
        Fail(scan,
             "Backbone \"%s\" names an invalid device: \"%.*s\". A path that contains \"@\" must be quoted.",
             spec->name, (int) strcspn(start, ",|"), start);
}

/* Returns how many devices there are. */
static int
ScanDevices(Scanner *scan, const Ia3BackboneSpec *spec, DeviceName *devices)
{
    int n = 0;

    strlcpy(devices[0], "cpu", sizeof devices[0]);
    if (*scan->p != '@')
        return 1;
    do {
        scan->p++;
        if (n == IA3_MAX_DEVICES) {
            Fail(scan, "Backbone \"%s\" has more than %d devices.", spec->name, IA3_MAX_DEVICES);
            break;
        }
        ScanDevice(scan, spec, devices[n]);
        if (scan->error == NULL)
            CheckDevices(scan, spec, devices, ++n);
    } while (scan->error == NULL && *scan->p == '|');
    return n;
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
             "Backbone \"%s\" names an unknown dtype \"%s\"; known are auto, float32, bfloat16 and "
             "int8. A path that contains \":\" must be quoted.",
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

/* One spec for each device; *n grows by as many. */
static void
ExpandDevices(Scanner *scan, Ia3BackboneSpec *specs, int *n, const DeviceName *devices, int nDevices)
{
    const Ia3BackboneSpec entry = specs[*n];
    int cpuEngines = 0;

    if (*n + nDevices > IA3_MAX_CONFIGURED) {
        Fail(scan, "There can be at most %d engines.", IA3_MAX_CONFIGURED);
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

/* An entry of the list becomes specs[*n] and the following. */
static void
ScanEntry(Scanner *scan, Ia3BackboneSpec *specs, int *n)
{
    DeviceName devices[IA3_MAX_DEVICES];
    Ia3BackboneSpec *spec = &specs[*n];
    int nDevices = 0;

    memset(spec, 0, sizeof *spec);
    ScanName(scan, spec);
    if (scan->error == NULL)
        ScanPath(scan, spec);
    if (scan->error == NULL)
        nDevices = ScanDevices(scan, spec, devices);
    if (scan->error == NULL)
        ScanDtype(scan, spec);
    if (scan->error == NULL)
        CheckDtype(scan, spec, devices[0]);
    SkipBlanks(scan);
    if (scan->error == NULL && *scan->p != '\0' && *scan->p != ',')
        Fail(scan, "Unexpected \"%.40s\" after the path of backbone \"%s\".", scan->p, spec->name);
    ResolvePath(scan, spec);
    for (int i = 0; i < *n && scan->error == NULL; i++)
        if (strcmp(specs[i].name, spec->name) == 0)
            Fail(scan, "The backbone name \"%s\" occurs twice.", spec->name);
    if (scan->error == NULL)
        ExpandDevices(scan, specs, n, devices, nDevices);
}

/*
 * Parses `setting` into specs[IA3_MAX_CONFIGURED]. Returns the number of engines it asks for (an empty setting
 * asks for none), or -1 with *error set to a full sentence (palloc'd). Never raises an error of its own: it
 * also runs in the GUC check hook, inside the postmaster.
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
    for (int entries = 0;; entries++) {
        if (entries == IA3_MAX_BACKBONES)
            Fail(&scan, "There can be at most %d backbones.", IA3_MAX_BACKBONES);
        else if (n == IA3_MAX_CONFIGURED)
            Fail(&scan, "There can be at most %d engines.", IA3_MAX_CONFIGURED);
        else
            ScanEntry(&scan, specs, &n);
        if (scan.error != NULL || *scan.p == '\0')
            break;
        scan.p++; /* the comma */
    }
    *error = scan.error;
    return scan.error != NULL ? -1 : n;
}
