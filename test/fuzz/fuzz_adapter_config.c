/*
 * fuzz_adapter_config.c
 *     Fuzzes what reads adapter_config.json: the check of an import, and the name of the model.
 *
 * jansson parses the JSON here, and regular expressions are replaced by a comparison, so this tries only what is done
 * with values. Everything that PostgreSQL parses has been in its own hands.
 */
#include "pg_standin.h"

#include <jansson.h>

#include "extension/tasks/adapter_config.h"

/* from utils/builtins.h, which does not go with jansson */
extern char *text_to_cstring(const text *t);
extern Datum textregexeq(PG_FUNCTION_ARGS);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int Ia3MaxChoices = 100;

/* A container of jsonb: its header, and behind it the number of its value here. */
typedef struct Container {
    uint32 header;
    uint32 number;
} Container;

#define MAX_CONTAINERS 4096
static json_t *values[MAX_CONTAINERS];
static uint32 nValues;

static Container *
make_container(json_t *value)
{
    Container *c = palloc0(sizeof(Container));

    c->header = json_is_object(value) ? JB_FOBJECT | (uint32) json_object_size(value)
                                      : JB_FARRAY | (uint32) json_array_size(value);
    if (nValues == MAX_CONTAINERS)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("too many containers")));
    c->number = nValues;
    values[nValues++] = value;
    return c;
}

static JsonbValue *
make_value(json_t *value)
{
    JsonbValue *v;

    if (value == NULL)
        return NULL;
    v = palloc0(sizeof(JsonbValue));
    if (json_is_string(value)) {
        v->type = jbvString;
        v->val.string.len = (int) json_string_length(value);
        /* not terminated, as in jsonb */
        v->val.string.val = palloc(v->val.string.len);
        memcpy(v->val.string.val, json_string_value(value), v->val.string.len);
    } else if (json_is_boolean(value)) {
        v->type = jbvBool;
        v->val.boolean = json_is_true(value);
    } else if (json_is_number(value))
        v->type = jbvNumeric;
    else if (json_is_null(value))
        v->type = jbvNull;
    else {
        v->type = jbvBinary;
        v->val.binary.data = (JsonbContainer *) make_container(value);
    }
    return v;
}

JsonbValue *
findJsonbValueFromContainer(JsonbContainer *container, uint32 flags, JsonbValue *key)
{
    json_t *value = values[((Container *) container)->number];
    char *name = pnstrdup(key->val.string.val, key->val.string.len);

    return (flags & container->header & JB_FOBJECT) ? make_value(json_object_get(value, name)) : NULL;
}

JsonbValue *
getIthJsonbValueFromContainer(JsonbContainer *container, uint32 i)
{
    if (!JsonContainerIsArray(container))
        abort();
    return make_value(json_array_get(values[((Container *) container)->number], i));
}

Datum
textregexeq(PG_FUNCTION_ARGS)
{
    return (Datum) 0;
}

Datum
DirectFunctionCall2Coll(PGFunction function, Oid collation, Datum a, Datum b)
{
    char *string = text_to_cstring((text *) DatumGetPointer(a)),
         *pattern = text_to_cstring((text *) DatumGetPointer(b));

    if (function != textregexeq)
        abort();
    if (strchr(pattern, '[') != NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_REGULAR_EXPRESSION), errmsg("invalid regular expression")));
    return BoolGetDatum(strlen(string) % 2 == strlen(pattern) % 2);
}

static void
try_config(void *arg)
{
    static char *names[] = {"encoder.block.0.layer.0.SelfAttention.k",
                            "encoder.block.0.layer.0.SelfAttention.v",
                            "encoder.block.0.layer.1.DenseReluDense.wo"};
    static bool scalesInput[] = {false, false, true};
    const Ia3AdapterModules modules = {3, names, scalesInput};
    Jsonb *config = arg;
    char *base = JB_ROOT_IS_OBJECT(config) ? Ia3AdapterConfigBase(config) : NULL;

    if (base != NULL) {
        (void) Ia3AdapterConfigFits(base, "/srv/models/models--google--flan-t5-large/snapshots/1");
        (void) Ia3AdapterConfigFits("google/flan-t5-large", base);
        if (!Ia3AdapterConfigFits(base, base) && base[0] != '/' && base[strlen(base) - 1] != '/')
            abort();
    }
    Ia3AdapterConfigCheck(config, &modules);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *root = json_loadb((const char *) data, size, 0, NULL);

    if (root != NULL) {
        Jsonb *jsonb = palloc0(sizeof(Jsonb) + sizeof(uint32));

        nValues = 0;
        memcpy(&jsonb->root, make_container(root), sizeof(Container));
        if (!pg_run(try_config, jsonb) && pg_sqlstate != ERRCODE_INVALID_PARAMETER_VALUE &&
            pg_sqlstate != ERRCODE_INVALID_REGULAR_EXPRESSION)
            abort();
    }
    json_decref(root);
    pg_reset();
    return 0;
}
