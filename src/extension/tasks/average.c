/*
 * average.c
 *     ia3_average: a new version whose vectors are the weighted mean of those of others.
 *
 * Adapters are stored as safetensors in float32, which engines write in one way only. So two adapters of a method with
 * the same options have the same header, byte by byte, and their data can be averaged number by number, without an engine
 * having to read them. Only whether the method has a mean is asked of an engine: where numbers are factors of a product, for
 * example, their mean is not that of what they do.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "common/version.h"
#include "extension/client/client.h"
#include "extension/guc.h"
#include "extension/supervisor/shmem.h"
#include "method.h"
#include "versions.h"
#include "writable.h"

PG_FUNCTION_INFO_V1(ia3_average);

typedef struct Average {
    const char *task;
    int n;
    Ia3Task **versions;
    double *weights; /* their sum is 1 */
    bytea *header;   /* of the safetensors, with its length */
    size_t nValues;
    double *sums;
} Average;

/* The weights, divided by their sum; equal ones if no array is given. */
static double *
read_weights(FunctionCallInfo fcinfo, int n)
{
    double *weights = palloc(sizeof(double) * n), sum = 0;
    ArrayType *array;
    Datum *elements;
    bool *nulls;
    int given;

    if (PG_ARGISNULL(2)) {
        for (int i = 0; i < n; i++)
            weights[i] = 1.0 / n;
        return weights;
    }
    array = PG_GETARG_ARRAYTYPE_P(2);
    if (ARR_NDIM(array) > 1)
        ereport(ERROR,
                (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("weights must be a one-dimensional array")));
    deconstruct_array(array, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &elements, &nulls,
                      &given);
    if (given != n)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("there must be as many weights as versions"),
                        errdetail("The number of versions is %d, that of weights %d.", n, given)));
    for (int i = 0; i < n; i++) {
        if (nulls[i])
            ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("weights must not contain nulls"),
                            errdetail("Element %d is null.", i + 1)));
        weights[i] = DatumGetFloat8(elements[i]);
        if (!isfinite(weights[i]) || weights[i] < 0)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("weights must be finite and not negative"),
                            errdetail("Element %d is %.15g.", i + 1, weights[i])));
        sum += weights[i];
    }
    if (!(sum > 0) || !isfinite(sum))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the sum of the weights must be positive and finite")));
    for (int i = 0; i < n; i++)
        weights[i] /= sum;
    return weights;
}

static void
raise_different(const Average *a, int i, const char *what, const char *first, const char *other)
{
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("versions to be averaged differ in %s", what),
             errdetail("It is %s for \"%s\" and %s for \"%s\".", first, a->versions[0]->label, other,
                       a->versions[i]->label)));
}

static const char *
shown_options(const Ia3Task *version)
{
    return version->methodOptions[0] ? version->methodOptions : "{}";
}

/* Looks the versions up, as the caller, and makes sure that a mean of their numbers means something. */
static void
find_versions(Average *a, const Ia3Strings *references)
{
    a->n = references->n;
    a->versions = palloc(sizeof(Ia3Task *) * a->n);
    for (int i = 0; i < a->n; i++) {
        Ia3Task *first, *version;

        CHECK_FOR_INTERRUPTS();
        version = a->versions[i] = Ia3TaskLookup(references->items[i]);
        first = a->versions[0];
        for (int k = 0; k < i; k++)
            if (strcmp(a->versions[k]->label, version->label) == 0)
                ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                                errmsg("version \"%s\" appears twice", version->label)));
        if (memcmp(first->backboneDigest, version->backboneDigest, IA3_DIGEST_LEN) != 0)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("versions to be averaged were trained on different backbones"),
                            errdetail("These are \"%s\" and \"%s\".", first->label, version->label)));
        if (strcmp(first->method, version->method) != 0)
            raise_different(a, i, "their method", psprintf("\"%s\"", first->method),
                            psprintf("\"%s\"", version->method));
        if (first->multiLabel != version->multiLabel)
            raise_different(a, i, "whether they are multi-label", first->multiLabel ? "true" : "false",
                            version->multiLabel ? "true" : "false");
        if (strcmp(first->methodOptions, version->methodOptions) != 0)
            raise_different(a, i, "the options of their method", shown_options(first),
                            shown_options(version));
    }
}

static void
check_method(const Average *a)
{
    const Ia3Task *first = a->versions[0];
    const Ia3EngineMethod *method = Ia3MethodFind(Ia3GetEngineInfo(first->backbone), first->method);

    if (method->noMean[0])
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("versions of the method \"%s\" cannot be averaged", first->method),
                        errdetail_internal("%s", method->noMean)));
}

static void
raise_malformed(const Ia3Task *version)
{
    ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
                    errmsg("adapter \"%s\" is not stored in the form of its method", version->label)));
}

/* The length of the header with its own length before it; 0 if the file is malformed. */
static size_t
header_length(const bytea *vectors)
{
    size_t bytes = VARSIZE_ANY_EXHDR(vectors);
    uint64 n;

    if (bytes < sizeof n)
        return 0;
    memcpy(&n, VARDATA_ANY(vectors), sizeof n);
    return n > bytes - sizeof n || (bytes - sizeof n - n) % sizeof(float) != 0 ? 0 : sizeof n + (size_t) n;
}

/* Adds the version's numbers, times its weight, to the sums. */
static void
add_version(Average *a, int i)
{
    bytea *vectors = Ia3TaskFetchVectors(a->versions[i]);
    const char *bytes = VARDATA_ANY(vectors);
    size_t header = header_length(vectors), n = (VARSIZE_ANY_EXHDR(vectors) - header) / sizeof(float);

    if (header == 0)
        raise_malformed(a->versions[i]);
    if (i == 0) {
        a->header = palloc(VARHDRSZ + header);
        SET_VARSIZE(a->header, VARHDRSZ + header);
        memcpy(VARDATA(a->header), bytes, header);
        a->nValues = n;
        a->sums = palloc_extended(Max(n, 1) * sizeof(double), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
    } else if (n != a->nValues || header != VARSIZE(a->header) - VARHDRSZ ||
               memcmp(bytes, VARDATA(a->header), header) != 0)
        raise_malformed(a->versions[i]);
    for (size_t k = 0; k < n; k++) {
        float value;

        memcpy(&value, bytes + header + k * sizeof value, sizeof value);
        a->sums[k] += a->weights[i] * value;
        if (k % (1 << 20) == 0)
            CHECK_FOR_INTERRUPTS();
    }
    pfree(vectors);
}

static bytea *
make_vectors(const Average *a)
{
    size_t header = VARSIZE(a->header) - VARHDRSZ, size = VARHDRSZ + header + a->nValues * sizeof(float);
    bytea *vectors = palloc(size);

    SET_VARSIZE(vectors, size);
    memcpy(VARDATA(vectors), VARDATA(a->header), header);
    for (size_t k = 0; k < a->nValues; k++) {
        float value = (float) a->sums[k];

        memcpy(VARDATA(vectors) + header + k * sizeof value, &value, sizeof value);
    }
    return vectors;
}

/* Prompts are made as for the first version. */
static Datum
make_recipe(const Average *a)
{
    const Ia3Task *first = a->versions[0];
    Ia3JsonObject recipe;

    Ia3JsonBegin(&recipe);
    Ia3JsonBeginMember(&recipe, "average_of");
    for (int i = 0; i < a->n; i++)
        Ia3JsonPutFloat(&recipe, a->versions[i]->label, a->weights[i]);
    Ia3JsonEndMember(&recipe);
    Ia3JsonPutString(&recipe, "method", first->method);
    Ia3MethodPutOptions(first->methodOptions, &recipe);
    Ia3JsonPutString(&recipe, "backbone", first->backbone);
    Ia3JsonPutStrings(&recipe, "template", first->templates);
    Ia3JsonPutStrings(&recipe, "choices", first->choices);
    Ia3WordingPut(first->wording, &recipe);
    if (first->multiLabel)
        Ia3JsonPutBool(&recipe, "multi_label", true);
    if (first->rowsAsWritten)
        Ia3JsonPutInteger(&recipe, "steps", 0); /* without "rendering" this is how lookups know (task.c) */
    else
        Ia3JsonPutString(&recipe, "rendering", "jsonb");
    Ia3JsonPutInteger(&recipe, "max_input_tokens",
                      first->recordedInputTokens ? first->recordedInputTokens : Ia3InputTokens());
    Ia3JsonPutString(&recipe, "truncate", Ia3TruncateName(first->truncate));
    Ia3JsonPutString(&recipe, "ia3_version", IA3_VERSION);
    return Ia3JsonEnd(&recipe);
}

static int
store(const Average *a)
{
    const Ia3Task *first = a->versions[0];
    Ia3NewVersion version = {
        .task = a->task,
        .backbone = first->backbone,
        .templates = first->templates,
        .choices = first->choices,
        .wording = first->wording,
        .multiLabel = first->multiLabel,
        .vectors = make_vectors(a),
        .backboneDigest = first->backboneDigest,
        .recipe = make_recipe(a),
        .activate = true,
    };

    return Ia3VersionsStore(&version);
}

Datum
ia3_average(PG_FUNCTION_ARGS)
{
    Average a = {0};
    Ia3Strings *references;

    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    Ia3CheckWritable("ia3_average()");
    Ia3RequirePreload();
    a.task = text_to_cstring(PG_GETARG_TEXT_PP(0));
    Ia3TaskCheckName(a.task);
    Ia3VersionsCheckOwner(a.task);
    references = Ia3StringsFromArray(PG_GETARG_DATUM(1), "versions");
    if (references->n == 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("there are no versions to average")));
    a.weights = read_weights(fcinfo, references->n);
    find_versions(&a, references);
    check_method(&a);
    for (int i = 0; i < a.n; i++)
        add_version(&a, i);
    PG_RETURN_INT32(store(&a));
}
