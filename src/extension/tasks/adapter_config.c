/*
 * adapter_config.c
 *     PEFT's adapter_config.json.
 *
 * The tensors of an adapter determine which vectors there are, the configuration where PEFT would apply them. If the
 * two disagree, PEFT would compute something different from us, or silently ignore vectors: it does so for a target
 * that matches no module, such as "w0" for "wo", which PEFT's own documentation once had.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "adapter_config.h"
#include "extension/client/string_list.h"
#include "extension/ia3_compat.h"

#define PEFT_VERSION "0.18.0" /* the version whose keys are written */

/* The modules that a configuration names, by a list or by a pattern. */
typedef struct Targets {
    const char *key;
    const Ia3Strings *names; /* each once; NULL: a pattern */
    text *pattern;
    Ia3StringIndex *index; /* of the names */
} Targets;

/* Adds the members that are specific to (IA)³ with its usual targets. The lists are those of the stored form. */
static void
put_default_members(Ia3JsonObject *config)
{
    static char *targetModules[] = {"k", "v", "wo"}, *feedforwardModules[] = {"wo"};
    const Ia3Strings target = {lengthof(targetModules), targetModules};
    const Ia3Strings feedforward = {lengthof(feedforwardModules), feedforwardModules};

    Ia3JsonPutString(config, "exclude_modules", NULL);
    Ia3JsonPutBool(config, "fan_in_fan_out", false);
    Ia3JsonPutStrings(config, "feedforward_modules", &feedforward);
    Ia3JsonPutBool(config, "init_ia3_weights", true);
    Ia3JsonPutString(config, "modules_to_save", NULL);
    Ia3JsonPutString(config, "peft_type", "IA3");
    Ia3JsonPutStrings(config, "target_modules", &target);
}

/* The members that are specific to another method or other options, which the engine supplies. */
static Datum
engine_members(const Ia3Method *method)
{
    if (method->peftConfig[0] == '\0')
        ereport(ERROR,
                (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                 errmsg("there is no PEFT configuration for the method \"%s\"", method->name),
                 method->peftLacks[0] != '\0'
                     ? errdetail_internal("%s", method->peftLacks)
                     : errdetail("PEFT has nothing that corresponds to its options, %s.", method->options)));
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(method->peftConfig));
}

Datum
Ia3AdapterConfigMake(const char *path, const Ia3Method *method)
{
    Ia3JsonObject config;
    Datum made;

    Ia3JsonBegin(&config);
    Ia3JsonPutString(&config, "auto_mapping", NULL);
    Ia3JsonPutString(&config, "base_model_name_or_path", path);
    Ia3JsonPutBool(&config, "inference_mode", true);
    if (method == NULL)
        put_default_members(&config);
    Ia3JsonPutString(&config, "peft_version", PEFT_VERSION);
    Ia3JsonPutString(&config, "revision", NULL);
    Ia3JsonPutString(&config, "task_type", "SEQ_2_SEQ_LM");
    made = Ia3JsonEnd(&config);
    return method ? DirectFunctionCall2(jsonb_concat, made, engine_members(method)) : made;
}

static void
invalid(const char *detail, const char *hint)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid adapter configuration"),
                    errdetail_internal("%s", detail), hint ? errhint("%s", hint) : 0));
}

/* The value of a key; NULL if it is absent or null. */
static JsonbValue *
get(Jsonb *config, const char *key)
{
    JsonbValue k = {.type = jbvString};
    JsonbValue *v;

    k.val.string.val = (char *) key;
    k.val.string.len = (int) strlen(key);
    v = findJsonbValueFromContainer(&config->root, JB_FOBJECT, &k);
    return v && v->type != jbvNull ? v : NULL;
}

static char *
string_value(const JsonbValue *v)
{
    return pnstrdup(v->val.string.val, v->val.string.len);
}

/* Reads a list of names, or a pattern, which is anchored at both ends as by Python's re.fullmatch. */
static Targets
get_targets(Jsonb *config, const char *key)
{
    JsonbValue *v = get(config, key);
    Targets targets = {key, NULL, NULL, NULL};

    if (v == NULL)
        invalid(psprintf("\"%s\" is missing.", key), NULL);
    if (v->type == jbvString)
        targets.pattern = cstring_to_text(psprintf("^(?:%s)$", string_value(v)));
    else if (v->type == jbvBinary && JsonContainerIsArray(v->val.binary.data)) {
        JsonbContainer *array = v->val.binary.data;
        int n = (int) JsonContainerSize(array);

        targets.index = Ia3StringIndexCreate();
        for (int i = 0; i < n; i++) {
            JsonbValue *item = getIthJsonbValueFromContainer(array, i);
            bool found;

            CHECK_FOR_INTERRUPTS();
            if (item->type != jbvString)
                invalid(psprintf("\"%s\" has an element that is not a string.", key), NULL);
            Ia3StringIndexAdd(targets.index, string_value(item), &found);
        }
        targets.names = Ia3StringIndexStrings(targets.index);
    } else
        invalid(psprintf("\"%s\" is neither a list nor a string.", key), NULL);
    return targets;
}

/* PEFT compares targets with whole components of a name, but feed-forward modules with any end of it (`partial`). */
static bool
name_matches(const char *name, const char *module, bool partial)
{
    size_t n = strlen(name), len = strlen(module);

    return len >= n && strcmp(module + len - n, name) == 0 &&
           (partial || len == n || module[len - n - 1] == '.');
}

static bool
targets_match(const Targets *targets, const char *module, bool partial)
{
    if (targets->names == NULL)
        return DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID, CStringGetTextDatum(module),
                                                    PointerGetDatum(targets->pattern)));
    for (int i = 0; i < targets->names->n; i++) {
        CHECK_FOR_INTERRUPTS();
        if (name_matches(targets->names->items[i], module, partial))
            return true;
    }
    return false;
}

/* Makes sure that every element of a list has an effect. */
static void
check_effective(const Targets *targets, const Ia3AdapterModules *modules)
{
    for (int i = 0; targets->names && i < targets->names->n; i++) {
        const char *name = targets->names->items[i];
        bool found = false;

        CHECK_FOR_INTERRUPTS();
        for (int m = 0; m < modules->n && !found; m++)
            found = name_matches(name, modules->names[m], false);
        if (!found)
            invalid(psprintf("\"%s\" of \"%s\" matches no module that the adapter has a vector for.", name,
                             targets->key),
                    strcmp(name, "w0") == 0 ? "The output projection of a feed-forward is called \"wo\"."
                                            : NULL);
    }
}

static void
check_subset(const Targets *part, const Targets *whole)
{
    for (int i = 0; part->names && whole->names && i < part->names->n; i++) {
        CHECK_FOR_INTERRUPTS();
        if (Ia3StringIndexFind(whole->index, part->names->items[i]) < 0)
            invalid(psprintf("\"%s\" of \"feedforward_modules\" is not among the \"target_modules\".",
                             part->names->items[i]),
                    NULL);
    }
}

char *
Ia3AdapterConfigBase(Jsonb *config)
{
    JsonbValue *v = get(config, "base_model_name_or_path");

    return v && v->type == jbvString && v->val.string.len > 0 ? string_value(v) : NULL;
}

/* Whether a name of `len` bytes is `name`, or ends with it after "--", as in the cache of Hugging Face's hub. */
static bool
is_name(const char *component, size_t len, const char *name, size_t n)
{
    return len >= n && pg_strncasecmp(component + len - n, name, n) == 0 &&
           (len == n || (len > n + 2 && strncmp(component + len - n - 2, "--", 2) == 0));
}

bool
Ia3AdapterConfigFits(const char *base, const char *path)
{
    size_t end = strlen(base), begin;

    while (end > 1 && base[end - 1] == '/')
        end--;
    begin = end;
    while (begin > 0 && base[begin - 1] != '/')
        begin--;
    for (const char *p = path; *p != '\0';) {
        size_t len = strcspn(p, "/");

        if (is_name(p, len, base + begin, end - begin))
            return true;
        p += len;
        p += strspn(p, "/");
    }
    return false;
}

static void
check_type(Jsonb *config)
{
    JsonbValue *v;

    if (!JB_ROOT_IS_OBJECT(config))
        invalid("The configuration is not an object.", NULL);
    v = get(config, "peft_type");
    if (v == NULL || v->type != jbvString)
        invalid("\"peft_type\" is missing or not a string.", NULL);
    if (strcmp(string_value(v), "IA3") != 0)
        invalid(psprintf("\"peft_type\" is \"%s\", not \"IA3\".", string_value(v)), NULL);
    v = get(config, "modules_to_save");
    if (v && !(v->type == jbvBinary && JsonContainerIsArray(v->val.binary.data) &&
               JsonContainerSize(v->val.binary.data) == 0))
        invalid("\"modules_to_save\" names modules that were trained as a whole.",
                "Only vectors can be imported.");
}

void
Ia3AdapterConfigCheck(Jsonb *config, const Ia3AdapterModules *modules)
{
    Targets targets, feedforward, excluded = {NULL, NULL, NULL, NULL};

    check_type(config);
    targets = get_targets(config, "target_modules");
    feedforward = get_targets(config, "feedforward_modules");
    if (get(config, "exclude_modules"))
        excluded = get_targets(config, "exclude_modules");
    check_effective(&targets, modules);
    check_subset(&feedforward, &targets);
    for (int i = 0; i < modules->n; i++) {
        const char *module = modules->names[i];

        if (!targets_match(&targets, module, false) ||
            (excluded.key && targets_match(&excluded, module, false)))
            invalid(
                psprintf("The adapter has a vector for \"%s\", which is not among the \"target_modules\".",
                         module),
                NULL);
        if (targets_match(&feedforward, module, true) != modules->scalesInput[i])
            invalid(psprintf(modules->scalesInput[i]
                                 ? "The vector for \"%s\" scales its input, but it is not among the "
                                   "\"feedforward_modules\"."
                                 : "The vector for \"%s\" scales its output, but it is among the "
                                   "\"feedforward_modules\".",
                             module),
                    NULL);
    }
}
