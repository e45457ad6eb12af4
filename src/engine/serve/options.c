/*
 * options.c
 *     Parses and checks the command line, and prints the help.
 */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/version.h"
#include "engine/base/log.h"
#include "engine/model/methods/methods.h"

static const char help[] =
    "ia3_engine runs a T5-family backbone for the PostgreSQL extension ia3.\n"
    "\n"
    "Usage:\n"
    "  ia3_engine serve --name NAME --backbone DIR --socket PATH [OPTION]...\n"
    "  ia3_engine check DIR\n"
    "  ia3_engine info --backbone DIR\n"
    "  ia3_engine tokenize --backbone DIR TEXT...\n"
    "  ia3_engine score --backbone DIR --choices 'a|b|c' [--adapter FILE] < lines of text\n"
    "  ia3_engine train --backbone DIR --out FILE [--choices 'a|b'] < lines of text<TAB>label\n"
    "\n"
    "Options:\n"
    "  --device SPEC             cpu (default), cuda, cuda:N, or auto: a GPU if there is one\n"
    "  --dtype TYPE              auto (default), float32, bfloat16 or int8 (prediction only)\n"
    "  --threads N               number of compute threads, 0 = one per core (default)\n"
    "  --max-batch-tokens N      maximum number of tokens in a batch (default 4096)\n"
    "  --memory-limit BYTES      limit for memory on the device (default 0, no limit); auto: on the CPU 75%\n"
    "                            of the machine's or container's memory; auto/N: the N-th part of that\n"
    "  --max-input-tokens N      score, train: longer inputs are truncated (default 256)\n"
    "  --help, --version\n"
    "\n"
    "serve only:\n"
    "  --adapter-cache-size BYTES  memory for cached adapters (default 268435456)\n"
    "  --sha256 HEX                fail unless the backbone's digest (info shows it) is this one\n"
    "  --status-fd N               file descriptor for status lines (\"loading PERCENT\", \"ready\", ...)\n"
    "  --death-fd N                file descriptor; the engine exits when it reports end of file\n"
    "\n"
    "train only:\n"
    "  --steps N (the method's)  --batch-size N (8)  --learning-rate X (the method's)  --warmup-ratio X "
    "(0.06)\n"
    "  --lm-weight X (1)  --unlikelihood-weight X (1)  --length-norm-weight X (1)\n"
    "  --dropout X (the checkpoint's)  --seed N (0)  --loss-averaging batch|example (batch)\n"
    "  --adapter FILE            adapter to start from\n"
    "  --method-options JSON     {\"rank\": 8}, for example; score needs those that the file does not tell "
    "(alpha)\n"
    "  --method NAME             ";

enum {
    OPT_HELP = 256,
    OPT_VERSION,
    OPT_NAME,
    OPT_BACKBONE,
    OPT_SOCKET,
    OPT_DEVICE,
    OPT_DTYPE,
    OPT_THREADS,
    OPT_MAX_BATCH_TOKENS,
    OPT_ADAPTER_CACHE_SIZE,
    OPT_MEMORY_LIMIT,
    OPT_SHA256,
    OPT_STATUS_FD,
    OPT_DEATH_FD,
    OPT_ADAPTER,
    OPT_CHOICES,
    OPT_OUT,
    OPT_MAX_INPUT_TOKENS,
    OPT_STEPS,
    OPT_BATCH_SIZE,
    OPT_LEARNING_RATE,
    OPT_WARMUP_RATIO,
    OPT_LM_WEIGHT,
    OPT_UNLIKELIHOOD_WEIGHT,
    OPT_LENGTH_NORM_WEIGHT,
    OPT_DROPOUT,
    OPT_SEED,
    OPT_LOSS_AVERAGING,
    OPT_METHOD,
    OPT_METHOD_OPTIONS
};

static const struct option long_options[] = {
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {"name", required_argument, NULL, OPT_NAME},
    {"backbone", required_argument, NULL, OPT_BACKBONE},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"max-batch-tokens", required_argument, NULL, OPT_MAX_BATCH_TOKENS},
    {"adapter-cache-size", required_argument, NULL, OPT_ADAPTER_CACHE_SIZE},
    {"memory-limit", required_argument, NULL, OPT_MEMORY_LIMIT},
    {"sha256", required_argument, NULL, OPT_SHA256},
    {"status-fd", required_argument, NULL, OPT_STATUS_FD},
    {"death-fd", required_argument, NULL, OPT_DEATH_FD},
    {"adapter", required_argument, NULL, OPT_ADAPTER},
    {"choices", required_argument, NULL, OPT_CHOICES},
    {"out", required_argument, NULL, OPT_OUT},
    {"max-input-tokens", required_argument, NULL, OPT_MAX_INPUT_TOKENS},
    {"steps", required_argument, NULL, OPT_STEPS},
    {"batch-size", required_argument, NULL, OPT_BATCH_SIZE},
    {"learning-rate", required_argument, NULL, OPT_LEARNING_RATE},
    {"warmup-ratio", required_argument, NULL, OPT_WARMUP_RATIO},
    {"lm-weight", required_argument, NULL, OPT_LM_WEIGHT},
    {"unlikelihood-weight", required_argument, NULL, OPT_UNLIKELIHOOD_WEIGHT},
    {"length-norm-weight", required_argument, NULL, OPT_LENGTH_NORM_WEIGHT},
    {"dropout", required_argument, NULL, OPT_DROPOUT},
    {"seed", required_argument, NULL, OPT_SEED},
    {"loss-averaging", required_argument, NULL, OPT_LOSS_AVERAGING},
    {"method", required_argument, NULL, OPT_METHOD},
    {"method-options", required_argument, NULL, OPT_METHOD_OPTIONS},
    {NULL, 0, NULL, 0}};

static bool
parse_integer(const char *text, long long low, long long high, long long *value)
{
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *value >= low && *value <= high;
}

static bool
parse_int(const char *text, int low, int high, int *value)
{
    long long v;
    if (!parse_integer(text, low, high, &v))
        return false;
    *value = (int) v;
    return true;
}

static bool
parse_size(const char *text, size_t *value)
{
    long long v;
    if (!parse_integer(text, 0, LLONG_MAX, &v))
        return false;
    *value = (size_t) v;
    return true;
}

static bool
parse_memory_limit(const char *text, size_t *value)
{
    long long engines = 1;
    if (strncmp(text, "auto", 4) != 0)
        return parse_size(text, value);
    if (text[4] != '\0' && (text[4] != '/' || !parse_integer(text + 5, 1, 255, &engines)))
        return false;
    *value = IA3_DEFAULT_MEMORY_LIMIT(engines);
    return true;
}

static bool
parse_double(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0';
}

static bool
parse_seed(const char *text, uint64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *text != '-';
}

static bool
parse_dtype(const char *text, ia3_dtype *value)
{
    static const struct {
        const char *name;
        ia3_dtype dtype;
    } names[] = {{"auto", IA3_AUTO}, {"float32", IA3_F32}, {"bfloat16", IA3_BF16}, {"int8", IA3_INT8}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(text, names[i].name) == 0) {
            *value = names[i].dtype;
            return true;
        }
    return false;
}

static bool
parse_averaging(const char *text, Ia3LossAveraging *value)
{
    *value = strcmp(text, "example") == 0 ? IA3_LOSS_EXAMPLE : IA3_LOSS_BATCH;
    return *value == IA3_LOSS_EXAMPLE || strcmp(text, "batch") == 0;
}

static bool
parse_method(const char *text, ia3_variant *value)
{
    const ia3_method *method = ia3_method_find(ia3_methods, text, strlen(text));
    if (method)
        *value = ia3_variant_standard(method);
    return method != NULL;
}

/* Stores a recipe option. */
static bool
set_recipe(ia3_recipe *r, int option, const char *value)
{
    switch (option) {
    case OPT_STEPS:
        return parse_int(value, 1, INT_MAX, &r->steps);
    case OPT_BATCH_SIZE:
        return parse_int(value, 1, INT_MAX, &r->batch_size);
    case OPT_LEARNING_RATE:
        return parse_double(value, &r->learning_rate);
    case OPT_WARMUP_RATIO:
        return parse_double(value, &r->warmup_ratio);
    case OPT_LM_WEIGHT:
        return parse_double(value, &r->lm_weight);
    case OPT_UNLIKELIHOOD_WEIGHT:
        return parse_double(value, &r->unlikelihood_weight);
    case OPT_LENGTH_NORM_WEIGHT:
        return parse_double(value, &r->length_norm_weight);
    case OPT_DROPOUT:
        return parse_double(value, &r->dropout);
    case OPT_SEED:
        return parse_seed(value, &r->seed);
    case OPT_LOSS_AVERAGING:
        return parse_averaging(value, &r->averaging);
    case OPT_METHOD:
        return parse_method(value, &r->variant);
    default:
        return false;
    }
}

static bool
set_option(ia3_options *o, int option, const char *value)
{
    switch (option) {
    case OPT_NAME:
        o->name = value;
        return true;
    case OPT_BACKBONE:
        o->backbone = value;
        return true;
    case OPT_SOCKET:
        o->socket = value;
        return true;
    case OPT_DEVICE:
        o->device = value;
        return true;
    case OPT_DTYPE:
        return parse_dtype(value, &o->dtype);
    case OPT_THREADS:
        return parse_int(value, 0, 4096, &o->threads);
    case OPT_MAX_BATCH_TOKENS:
        return parse_int(value, 1, 1 << 30, &o->max_batch_tokens);
    case OPT_ADAPTER_CACHE_SIZE:
        return parse_size(value, &o->adapter_cache_size);
    case OPT_MEMORY_LIMIT:
        return parse_memory_limit(value, &o->memory_limit);
    case OPT_SHA256:
        o->sha256 = value;
        return strlen(value) == 2 * IA3_DIGEST_LEN && strspn(value, "0123456789abcdef") == strlen(value);
    case OPT_STATUS_FD:
        return parse_int(value, 0, INT_MAX, &o->status_fd);
    case OPT_DEATH_FD:
        return parse_int(value, 0, INT_MAX, &o->death_fd);
    case OPT_ADAPTER:
        o->adapter = value;
        return true;
    case OPT_CHOICES:
        o->choices = value;
        return true;
    case OPT_OUT:
        o->out = value;
        return true;
    case OPT_METHOD_OPTIONS:
        o->method_options = value;
        return true;
    case OPT_MAX_INPUT_TOKENS:
        return parse_int(value, 1, (int) IA3_MAX_INPUT_TOKENS, &o->max_input_tokens);
    default:
        return set_recipe(&o->recipe, option, value);
    }
}

static int
usage(const char *what)
{
    ia3_log(IA3_LOG_ERROR, "%s; see ia3_engine --help", what);
    return 2;
}

/* Prints the help, which ends with the names of the methods. */
static void
print_help(void)
{
    fputs(help, stdout);
    for (int i = 0; ia3_methods[i]; i++)
        printf("%s%s", i == 0 ? "" : ", ", ia3_methods[i]->name);
    printf(" (%s)\n", ia3_methods[0]->name);
}

static const char *
check_command(const ia3_options *o)
{
    static const char *const commands[] = {"serve", "info", "tokenize", "score", "train", "check"};
    size_t i = 0, n = sizeof commands / sizeof commands[0];
    while (i < n && strcmp(o->command, commands[i]) != 0)
        i++;
    if (i == n)
        return "unknown command";
    if (o->backbone == NULL)
        return i == 5 ? "check requires a directory" : "--backbone is required";
    if (i == 0 && (o->socket == NULL || o->name == NULL))
        return "serve requires --name and --socket";
    if (i == 3 && o->choices == NULL)
        return "score requires --choices";
    if (i == 4 && o->out == NULL)
        return "train requires --out";
    return NULL;
}

int
ia3_options_parse(ia3_options *o, int argc, char **argv)
{
    *o = (ia3_options){
        .device = "cpu",
        .dtype = IA3_AUTO,
        .max_batch_tokens = 4096,
        .adapter_cache_size = (size_t) 256 << 20,
        .status_fd = -1,
        .death_fd = -1,
        .max_input_tokens = 256,
        .recipe = {.batch_size = 8,
                   .variant = ia3_variant_standard(ia3_methods[0]),
                   .learning_rate = NAN,
                   .warmup_ratio = 0.06,
                   .lm_weight = 1,
                   .unlikelihood_weight = 1,
                   .length_norm_weight = 1,
                   .dropout = -1},
    };
    opterr = 0;
    int c;
    while ((c = getopt_long(argc, argv, "hV", long_options, NULL)) != -1) {
        char what[256];
        if (c == OPT_HELP || c == 'h' || c == OPT_VERSION || c == 'V') {
            if (c == OPT_HELP || c == 'h')
                print_help();
            else
                printf("ia3_engine %s\n", IA3_VERSION);
            return 0;
        }
        if (c == '?') {
            snprintf(what, sizeof what, "unknown or incomplete option \"%s\"", argv[optind - 1]);
            return usage(what);
        }
        if (!set_option(o, c, optarg)) {
            snprintf(what, sizeof what, "invalid option value \"%s\"", optarg);
            return usage(what);
        }
    }
    if (optind >= argc)
        return usage("no command specified");
    if (o->recipe.steps == 0) /* not given */
        o->recipe.steps = o->recipe.variant.method->steps;
    if (isnan(o->recipe.learning_rate))
        o->recipe.learning_rate = o->recipe.variant.method->learning_rate;
    ia3_error err = {0};
    if (o->method_options &&
        !ia3_variant_change(&o->recipe.variant, o->method_options, strlen(o->method_options), &err)) {
        char what[1400];
        ia3_error_join(&err, what, sizeof what);
        return usage(what);
    }
    o->command = argv[optind];
    o->n_arguments = argc - optind - 1;
    o->arguments = argv + optind + 1;
    if (strcmp(o->command, "check") == 0 && o->backbone == NULL && o->n_arguments == 1)
        o->backbone = o->arguments[0];
    const char *wrong = check_command(o);
    return wrong ? usage(wrong) : -1;
}
