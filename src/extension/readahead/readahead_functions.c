/*
 * readahead_functions.c
 *     Recognizing our functions.
 *
 * They are recognized by what implements them, library and symbol, so the schema of the extension does not matter.
 * Their OIDs are looked up when first needed and looked up again when pg_proc has changed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "nodes/plannodes.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "readahead_functions.h"

/* The library as CREATE FUNCTION has recorded it, that is, MODULE_PATHNAME in ia3.control. */
#define LIBRARY "$libdir/ia3"

static const struct {
    const char *symbol;
    Ia3CallForm form;
    int options; /* Ia3FunctionOptions */
} implementations[] = {
    {"ia3_classify_text", IA3_CALL_TEXT},
    {"ia3_classify_fields", IA3_CALL_FIELDS},
    {"ia3_classify_fields_text", IA3_CALL_FIELDS_TEXT},
    {"ia3_classify_zero_shot", IA3_CALL_ZERO_SHOT},
    {"ia3_classify_zero_shot_worded", IA3_CALL_ZERO_SHOT},
    {"ia3_predict_text", IA3_CALL_TEXT},
    {"ia3_predict_fields", IA3_CALL_FIELDS},
    {"ia3_predict_fields_text", IA3_CALL_FIELDS_TEXT},
    {"ia3_predict_zero_shot", IA3_CALL_ZERO_SHOT},
    {"ia3_predict_zero_shot_worded", IA3_CALL_ZERO_SHOT},
    {"ia3_classify_text_levels", IA3_CALL_TEXT, 2},
    {"ia3_classify_fields_levels", IA3_CALL_FIELDS, 2},
    {"ia3_classify_fields_text_levels", IA3_CALL_FIELDS_TEXT, 2},
    {"ia3_predict_text_above", IA3_CALL_TEXT, 1},
    {"ia3_predict_fields_above", IA3_CALL_FIELDS, 1},
    {"ia3_predict_fields_text_above", IA3_CALL_FIELDS_TEXT, 1},
    {"ia3_predict_version_text", IA3_CALL_VERSION_TEXT},
    {"ia3_predict_version_fields", IA3_CALL_VERSION_FIELDS},
    {"ia3_predict_set_text", IA3_CALL_TEXT, 1},
    {"ia3_predict_set_fields", IA3_CALL_FIELDS, 1},
    {"ia3_predict_set_fields_text", IA3_CALL_FIELDS_TEXT, 1},
    {"ia3_predict_labels_text", IA3_CALL_TEXT, 1},
    {"ia3_predict_labels_fields", IA3_CALL_FIELDS, 1},
    {"ia3_predict_labels_fields_text", IA3_CALL_FIELDS_TEXT, 1},
    {"ia3_generate_text", IA3_CALL_GENERATE},
    {"ia3_generate_fields", IA3_CALL_GENERATE_FIELDS},
    {"ia3_generate_fields_text", IA3_CALL_GENERATE_FIELDS_TEXT},
    {"ia3_generate_zero_shot", IA3_CALL_GENERATE_ZERO_SHOT},
};

/* The names of the SQL functions that they implement, under which the functions are looked up. */
static const char *const names[] = {
    "ia3_classify",        "ia3_classify_fields",       "ia3_classify_zero_shot", "ia3_predict",
    "ia3_predict_fields",  "ia3_predict_zero_shot",     "ia3_zero_shot",          "ia3_generate",
    "ia3_generate_fields", "ia3_generate_zero_shot",    "ia3_predict_set",        "ia3_predict_set_fields",
    "ia3_predict_labels",  "ia3_predict_labels_fields", "ia3_predict_version",
};

/* 65 functions (sampling is not batched here), times two in case of a second schema. */
#define MAX_FUNCTIONS 140

typedef struct KnownFunction {
    Oid oid;
    uint32 hash; /* of its syscache entry, as in PlanInvalItem */
    Ia3CallForm form;
    int options;
} KnownFunction;

static KnownFunction known[MAX_FUNCTIONS];
static int nKnown = 0;
static uint64 knownAt = 0;       /* the value of `invalidations` when `known` was made */
static uint64 invalidations = 1; /* of pg_proc so far */

static void
forget_functions(Datum arg, int cacheid, uint32 hashvalue)
{
    invalidations++;
}

/* The value of an attribute of pg_proc, palloc'd; NULL if it is NULL. */
static char *
text_attribute(HeapTuple tuple, AttrNumber attribute)
{
    bool isNull;
    Datum value = SysCacheGetAttr(PROCOID, tuple, attribute, &isNull);

    return isNull ? NULL : TextDatumGetCString(value);
}

/* Fills in form and options of a function; false if it is not one of ours. */
static bool
recognize(HeapTuple tuple, KnownFunction *function)
{
    Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);
    char *library, *symbol;

    function->form = IA3_CALL_NONE;
    if (proc->prolang != ClanguageId)
        return false;
    library = text_attribute(tuple, Anum_pg_proc_probin);
    symbol = text_attribute(tuple, Anum_pg_proc_prosrc);
    if (library != NULL && symbol != NULL && strcmp(library, LIBRARY) == 0)
        for (int i = 0; i < lengthof(implementations) && function->form == IA3_CALL_NONE; i++)
            if (strcmp(symbol, implementations[i].symbol) == 0) {
                function->form = implementations[i].form;
                function->options = implementations[i].options;
            }
    if (library != NULL)
        pfree(library);
    if (symbol != NULL)
        pfree(symbol);
    return function->form != IA3_CALL_NONE;
}

static int
find_functions(const char *name, KnownFunction *found, int n)
{
    CatCList *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));

    for (int i = 0; i < list->n_members && n < MAX_FUNCTIONS; i++) {
        HeapTuple tuple = &list->members[i]->tuple;

        if (!recognize(tuple, &found[n]))
            continue;
        found[n].oid = ((Form_pg_proc) GETSTRUCT(tuple))->oid;
        found[n].hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(found[n].oid));
        n++;
    }
    ReleaseSysCacheList(list);
    return n;
}

/*
 * The look-ups may process invalidations, which then already apply to the result, and they may fail. So the result is
 * built aside, and `known` always holds a complete answer.
 */
static void
resolve_functions(void)
{
    static bool registered = false;
    KnownFunction found[MAX_FUNCTIONS];
    uint64 before;
    int n = 0;

    if (knownAt == invalidations)
        return;
    if (!registered) {
        CacheRegisterSyscacheCallback(PROCOID, forget_functions, (Datum) 0);
        registered = true;
    }
    before = invalidations;
    for (int i = 0; i < lengthof(names); i++)
        n = find_functions(names[i], found, n);
    memcpy(known, found, sizeof(KnownFunction) * n);
    nKnown = n;
    knownAt = before;
}

static const KnownFunction *
find_function(Oid function)
{
    if (function < FirstNormalObjectId)
        return NULL;
    resolve_functions();
    for (int i = 0; i < nKnown; i++)
        if (known[i].oid == function)
            return &known[i];
    return NULL;
}

Ia3CallForm
Ia3FunctionForm(Oid function)
{
    const KnownFunction *found = find_function(function);

    return found ? found->form : IA3_CALL_NONE;
}

int
Ia3FunctionOptions(Oid function)
{
    const KnownFunction *found = find_function(function);

    return found ? found->options : 0;
}

/* Every function in a plan that is not built in is listed among the items that would invalidate the plan. */
bool
Ia3PlanUsesFunctions(const PlannedStmt *stmt)
{
    ListCell *lc;

    foreach (lc, stmt->invalItems) {
        PlanInvalItem *item = lfirst(lc);

        if (item->cacheId != PROCOID)
            continue;
        resolve_functions();
        for (int i = 0; i < nKnown; i++)
            if (known[i].hash == item->hashValue)
                return true;
    }
    return false;
}
