/*
 * weighting.c
 *     How much each row counts in training: the options balanced, class_weights and weight_column.
 */
#include "postgres.h"

#include <math.h>

#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "arrays.h"
#include "common/protocol.h"
#include "extension/tasks/json_object.h"
#include "weighting.h"

#define MAX_SHOWN 1000 /* labels in metrics */

static double
class_weight(const char *label, const JsonbValue *value)
{
    double weight = NAN;

    if (value->type == jbvNumeric)
        weight = Ia3NumericToDouble(NumericGetDatum(value->val.numeric));
    if (!(weight >= 0 && weight <= IA3_MAX_WEIGHT))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the weight of label \"%s\" in class_weights must be a number from 0 to %g",
                               label, IA3_MAX_WEIGHT)));
    return weight;
}

/* All choices of all rows; labels are among them. */
static Ia3StringIndex *
index_choices(const Ia3Examples *examples)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();
    bool found;

    for (int s = 0; s < examples->nSets; s++)
        for (int c = 0; c < examples->sets[s]->n; c++)
            Ia3StringIndexAdd(index, examples->sets[s]->items[c], &found);
    return index;
}

static void
unknown_label(const char *label, const Ia3Examples *examples)
{
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("label \"%s\" in class_weights is not among the choices", label),
             examples->common ? errdetail("The choices are %s.", Ia3ChoicesQuoted(examples->common)) : 0));
}

/* Sets the weights of the classes that the object names. */
static void
read_class_weights(Ia3Weighting *weighting, Ia3StringIndex *labels, Jsonb *weights,
                   const Ia3Examples *examples)
{
    Ia3StringIndex *choices = index_choices(examples);
    JsonbIterator *it = JsonbIteratorInit(&weights->root);
    JsonbIteratorToken token;
    JsonbValue value;
    char *label = NULL;

    if (!JB_ROOT_IS_OBJECT(weights))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("class_weights must be a JSON object of labels and numbers"),
                        errhint("For example: '{\"spam\": 2, \"other\": 0.5}'.")));
    while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE) {
        if (token == WJB_KEY) {
            label = pnstrdup(value.val.string.val, value.val.string.len);
            if (Ia3StringIndexFind(choices, label) < 0)
                unknown_label(label, examples);
        } else if (token == WJB_VALUE) {
            double weight = class_weight(label, &value);
            int position = Ia3StringIndexFind(labels, label);

            if (position >= 0) /* otherwise no row has it */
                weighting->class[position] = weight;
        }
    }
}

Ia3Weighting *
Ia3WeightingMake(const Ia3Recipe *recipe, const Ia3Examples *examples)
{
    const Ia3TrainRows *rows = examples->rows;
    Ia3Weighting *weighting = palloc0(sizeof(Ia3Weighting));
    Ia3StringIndex *labels = Ia3StringIndexCreate();
    bool found;

    if (!recipe->balanced && recipe->classWeights == NULL && recipe->weightColumn == NULL)
        return NULL;
    if (rows->multiLabel && (recipe->balanced || recipe->classWeights))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("%s cannot be used with a multi-label task",
                               recipe->balanced ? "balanced" : "class_weights"),
                        errdetail("A row has any number of labels."),
                        errhint("Weights of rows, with weight_column, can be used.")));
    weighting->n = rows->n;
    weighting->balanced = recipe->balanced;
    weighting->multiLabel = rows->multiLabel;
    weighting->label = Ia3ArrayOf(rows->n, sizeof(int));
    weighting->column = Ia3ArrayOf(rows->n, sizeof(double));
    for (int i = 0; i < rows->n; i++) {
        weighting->label[i] = Ia3StringIndexAdd(labels, rows->rows[i].label, &found);
        weighting->column[i] = rows->rows[i].weight;
    }
    weighting->labels = Ia3StringIndexStrings(labels);
    weighting->class = Ia3ArrayOf(weighting->labels->n, sizeof(double));
    for (int l = 0; l < weighting->labels->n; l++)
        weighting->class[l] = 1;
    if (recipe->classWeights)
        read_class_weights(weighting, labels, recipe->classWeights, examples);
    return weighting;
}

/* The factors of `balanced` [labels], for n of the rows. */
static double *
balance(const Ia3Weighting *weighting, const int *rows, int n)
{
    double *sum = Ia3ArrayOf(weighting->labels->n, sizeof(double)), total = 0;
    int k = 0;

    for (int i = 0; i < n; i++) {
        int row = rows ? rows[i] : i;

        sum[weighting->label[row]] += weighting->column[row];
        total += weighting->column[row];
    }
    for (int l = 0; l < weighting->labels->n; l++)
        k += sum[l] > 0;
    for (int l = 0; l < weighting->labels->n; l++)
        sum[l] = sum[l] > 0 ? total / (k * sum[l]) : 0;
    return sum;
}

/* The weights of n of the rows; of all, if rows is NULL. */
static double *
weights_of(const Ia3Weighting *weighting, const int *rows, int n)
{
    double *factor = weighting->balanced ? balance(weighting, rows, n) : NULL;
    double *weights = Ia3ArrayOf(n, sizeof(double)), largest = 0;

    for (int i = 0; i < n; i++) {
        int row = rows ? rows[i] : i, label = weighting->label[row];

        weights[i] = weighting->column[row] * weighting->class[label] * (factor ? factor[label] : 1);
        if (!(weights[i] <= IA3_MAX_WEIGHT))
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                     errmsg("the weight of row %d of the query is above %g", row + 1, IA3_MAX_WEIGHT)));
        largest = Max(largest, weights[i]);
    }
    if (largest == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        n == weighting->n ? errmsg("the weights of all rows are zero")
                                          : errmsg("the weights of all rows of a training run are zero"),
                        n == weighting->n
                            ? 0
                            : errdetail("The run trains on %d of the query's %d rows.", n, weighting->n)));
    if (factor)
        pfree(factor);
    return weights;
}

void
Ia3WeightingPut(ia3_writer *w, const Ia3Weighting *weighting, const int *rows, int n)
{
    double *weights;

    if (weighting == NULL) {
        ia3_put_u32(w, 0);
        return;
    }
    weights = weights_of(weighting, rows, n);
    ia3_put_u32(w, n);
    for (int i = 0; i < n; i++)
        ia3_put_f64(w, weights[i]);
    pfree(weights);
}

Datum
Ia3WeightingMetrics(const Ia3Weighting *weighting)
{
    double *weights = weights_of(weighting, NULL, weighting->n);
    double *sum = Ia3ArrayOf(weighting->labels->n, sizeof(double)), total = 0, squares = 0;
    int *count = Ia3ArrayOf(weighting->labels->n, sizeof(int));
    Ia3JsonObject json;

    for (int i = 0; i < weighting->n; i++) {
        sum[weighting->label[i]] += weights[i];
        count[weighting->label[i]]++;
        total += weights[i];
    }
    for (int i = 0; i < weighting->n; i++)
        squares += (weights[i] / total) * (weights[i] / total);
    Ia3JsonBegin(&json);
    Ia3JsonPutFloat(&json, "effective_examples", 1 / squares);
    if (weighting->labels->n <= MAX_SHOWN && !weighting->multiLabel) {
        Ia3JsonBeginMember(&json, "label_weights");
        for (int l = 0; l < weighting->labels->n; l++)
            Ia3JsonPutFloat(&json, weighting->labels->items[l], sum[l] / total * weighting->n / count[l]);
        Ia3JsonEndMember(&json);
    }
    return Ia3JsonEnd(&json);
}
