/*
 * guc.c
 *     The settings ia3.*.
 *
 * None is PGC_POSTMASTER: such a setting cannot be defined after the postmaster started, and a session that
 * loads the library late (LOAD 'ia3' without preloading) would be terminated. What shapes the engine
 * is PGC_SIGHUP; the supervisor replaces the engines that a reload changes.
 */
#include "postgres.h"

#include <limits.h>

#include "common/protocol.h"
#include "guc.h"
#include "ia3_compat.h"

char *Ia3BackbonesSetting = NULL;
int Ia3Threads = 0;
int Ia3MaxBatchTokens = 4096;
int Ia3MaxInputTokens = 512;
int Ia3MaxInputTokensLimit = 4096;
int Ia3MaxChoices = 10000;
int Ia3AdapterCacheSize = 256;
int Ia3MemoryLimit = -1;
int Ia3HangTimeout = 60;
int Ia3StartTimeout = 60000;
char *Ia3Backbone = NULL;
int Ia3BatchRows = 256;
int Ia3WatchAttempts = 5;
int Ia3WatchTimeout = 60;
int Ia3WatchQueueLimit = 1000000;
bool Ia3EnableBatching = true;

static void
define_engine_settings(GucStringCheckHook checkBackbones)
{
    DefineCustomStringVariable(
        "ia3.backbones", "Backbones to keep loaded, in an engine for each of their devices.",
        "A list of name=path[@device[|device...]][:dtype]; a path is absolute, or the "
        "name of a backbone in the extension's share directory; a device is cpu, cuda, "
        "cuda:N or auto.",
        &Ia3BackbonesSetting, IA3_DEFAULT_BACKBONE "=ia3-mini", PGC_SIGHUP, 0, checkBackbones, NULL, NULL);
    DefineCustomIntVariable("ia3.threads", "Threads of each engine on the CPU; 0 means one per core.", NULL,
                            &Ia3Threads, 0, 0, 1024, PGC_SIGHUP, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("ia3.max_batch_tokens", "Budget of one batch of an engine, in tokens.",
                            "Tokens of inputs, of choices, and to be generated count; those of long inputs "
                            "count more. A single row may exceed the budget.",
                            &Ia3MaxBatchTokens, 4096, 64, 4 * 1024 * 1024, PGC_SIGHUP, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("ia3.adapter_cache_size", "Memory for cached adapters in each engine.", NULL,
                            &Ia3AdapterCacheSize, 256, 1, INT_MAX / 2, PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL,
                            NULL);
    DefineCustomIntVariable(
        "ia3.memory_limit", "Maximum memory of each engine on its device.",
        "0 means no limit. -1 means none on a GPU, and 75% of the memory of the machine or the "
        "control group on the CPU, which the engines of a backbone share.",
        &Ia3MemoryLimit, -1, -1, INT_MAX / 2, PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
    DefineCustomIntVariable("ia3.hang_timeout",
                            "How long an engine may show no sign of life before it is killed and restarted.",
                            "After half of this time its state is \"hung\". 0 turns the watch off.",
                            &Ia3HangTimeout, 60, 0, INT_MAX / 2000, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

/*
 * What a role sets has to be within the limit. A configuration file is not checked here, because its lines may come in any
 * order; Ia3InputTokens applies the limit to it.
 */
static bool
check_max_input_tokens(int *newval, void **extra, GucSource source)
{
    if (source <= PGC_S_ARGV || *newval <= Ia3MaxInputTokensLimit)
        return true;
    GUC_check_errdetail("The setting ia3.max_input_tokens_limit is %d.", Ia3MaxInputTokensLimit);
    GUC_check_errhint("A superuser can raise ia3.max_input_tokens_limit.");
    return false;
}

static void
define_session_settings(void)
{
    DefineCustomStringVariable("ia3.backbone", "Backbone of new tasks and of calls without a task.", NULL,
                               &Ia3Backbone, IA3_DEFAULT_BACKBONE, PGC_USERSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("ia3.max_input_tokens_limit", "Maximum of ia3.max_input_tokens.",
                            "Long inputs keep an engine busy, with the square of their length.",
                            &Ia3MaxInputTokensLimit, 4096, 16, IA3_MAX_INPUT_TOKENS, PGC_SUSET, 0, NULL, NULL,
                            NULL);
    DefineCustomIntVariable("ia3.max_input_tokens",
                            "Maximum number of tokens of an input; what does not fit is cut off.",
                            "The limit includes the end marker. What is cut off is decided when a version is "
                            "trained.",
                            &Ia3MaxInputTokens, 512, 16, IA3_MAX_INPUT_TOKENS, PGC_USERSET, 0,
                            check_max_input_tokens, NULL, NULL);
    DefineCustomIntVariable("ia3.max_choices", "Maximum number of choices of one call or of a task.",
                            "Every choice keeps an engine busy, for each row.", &Ia3MaxChoices, 10000, 1,
                            IA3_MAX_CHOICES, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("ia3.start_timeout",
                            "How long a query waits for an engine that is not ready yet.",
                            "The engine may be starting, loading or restarting. 0 means not at all.",
                            &Ia3StartTimeout, 60000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
    DefineCustomIntVariable("ia3.batch_rows",
                            "Maximum number of rows that a plan sends to an engine in one request.", NULL,
                            &Ia3BatchRows, 256, 1, 65536, PGC_USERSET, 0, NULL, NULL, NULL);
    DefineCustomBoolVariable("ia3.enable_batching", "Lets the planner batch the rows of a query.", NULL,
                             &Ia3EnableBatching, true, PGC_USERSET, 0, NULL, NULL, NULL);
}

static void
define_watch_settings(void)
{
    DefineCustomIntVariable("ia3.watch_queue_limit", "Maximum number of rows that wait for a deferred watch.",
                            "Statements that would add more of them fail. 0 means no limit.",
                            &Ia3WatchQueueLimit, 1000000, 0, INT_MAX, PGC_SUSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("ia3.watch_attempts",
                            "How often a deferred watch tries to label a row before it sets it aside.", NULL,
                            &Ia3WatchAttempts, 5, 1, 1000, PGC_SIGHUP, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("ia3.watch_timeout",
                            "How long the expressions and triggers of a deferred watch may work on a batch.",
                            "0 means no limit.", &Ia3WatchTimeout, 60, 0, INT_MAX / 1000, PGC_SIGHUP,
                            GUC_UNIT_S, NULL, NULL, NULL);
}

void
Ia3DefineSettings(GucStringCheckHook checkBackbones)
{
    define_engine_settings(checkBackbones);
    define_session_settings();
    define_watch_settings();
    MarkGUCPrefixReserved("ia3");
}

int
Ia3InputTokens(void)
{
    return Min(Ia3MaxInputTokens, Ia3MaxInputTokensLimit);
}
