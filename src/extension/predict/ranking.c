/*
 * ranking.c
 *     The answer to a call: its choices, best first.
 */
#include "postgres.h"

#include <math.h>

#include "ranking.h"

static int
compare_ranked(const void *a, const void *b)
{
    const Ia3RankedChoice *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->position - y->position;
}

/*
 * Probabilities are the softmax of the scores. The scores are reduced by the best one so that exp cannot overflow.
 */
static void
set_probabilities(Ia3Ranking *ranking, double temperature)
{
    double sum = 0;

    for (int i = 0; i < ranking->n; i++) {
        ranking->choices[i].probability =
            exp((ranking->choices[i].score - ranking->choices[0].score) / temperature);
        sum += ranking->choices[i].probability;
    }
    for (int i = 0; i < ranking->n; i++)
        ranking->choices[i].probability /= sum;
}

/* The softmax of the two answers "yes" and "no" about each label, whose difference the score is. */
static void
set_label_probabilities(Ia3Ranking *ranking, const Ia3Task *task, double temperature)
{
    for (int i = 0; i < ranking->n; i++) {
        Ia3RankedChoice *c = &ranking->choices[i];

        c->probability = 1 / (1 + exp(-c->score / temperature));
        c->threshold = Ia3TaskThreshold(task, c->choice);
    }
}

/* Scores are divided by the temperature of a calibrated task. */
Ia3Ranking *
Ia3RankingMake(const Ia3Task *task, const Ia3Strings *choices, const Ia3ScoreResult *result)
{
    Ia3Ranking *ranking = palloc(sizeof(Ia3Ranking));
    double temperature = task && task->temperature > 0 ? task->temperature : 1;

    ranking->minProbability = task ? task->minProbability : 0;
    ranking->multiLabel = task && task->multiLabel;
    ranking->n = choices->n;
    ranking->choices = palloc(sizeof(Ia3RankedChoice) * choices->n);
    for (int i = 0; i < choices->n; i++) {
        Ia3RankedChoice *c = &ranking->choices[i];

        if (!isfinite(result->scores[i]))
            ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
                            errmsg("ia3 engine returned a score that is not a number")));
        c->choice = choices->items[i];
        c->position = i;
        c->score = result->scores[i];
        c->threshold = 0;
    }
    qsort(ranking->choices, ranking->n, sizeof(Ia3RankedChoice), compare_ranked);
    if (ranking->multiLabel)
        set_label_probabilities(ranking, task, temperature);
    else
        set_probabilities(ranking, temperature);
    return ranking;
}

void
Ia3CheckMinProbability(double minProbability)
{
    if (!(minProbability >= 0 && minProbability <= 1))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("min_probability must be between 0 and 1")));
}

double
Ia3MinProbability(FunctionCallInfo fcinfo, int arg)
{
    double minProbability = IA3_TASK_MIN_PROBABILITY;

    if (!PG_ARGISNULL(arg)) {
        minProbability = PG_GETARG_FLOAT8(arg);
        Ia3CheckMinProbability(minProbability);
    }
    return minProbability;
}

const char *
Ia3RankingBest(const Ia3Ranking *ranking, double minProbability)
{
    const Ia3RankedChoice *best = &ranking->choices[0];

    if (ranking->multiLabel)
        elog(ERROR, "a multi-label task has no best choice");
    if (minProbability == IA3_TASK_MIN_PROBABILITY)
        minProbability = ranking->minProbability;
    return best->probability < minProbability ? NULL : best->choice;
}

Ia3Strings *
Ia3RankingLabels(const Ia3Ranking *ranking, double minProbability)
{
    Ia3Strings *labels = palloc0(sizeof(Ia3Strings));
    const char **at = palloc0(sizeof(char *) * ranking->n);

    for (int i = 0; i < ranking->n; i++) {
        const Ia3RankedChoice *c = &ranking->choices[i];

        if (Ia3LabelIsPredicted(c, minProbability))
            at[c->position] = c->choice;
    }
    labels->items = palloc(sizeof(char *) * ranking->n);
    for (int i = 0; i < ranking->n; i++)
        if (at[i] != NULL)
            labels->items[labels->n++] = (char *) at[i];
    pfree(at);
    return labels;
}

Ia3Ranking *
Ia3RankingOfText(const char *text)
{
    Ia3Ranking *ranking = palloc(sizeof(Ia3Ranking));

    ranking->minProbability = 0;
    ranking->multiLabel = false;
    ranking->n = 1;
    ranking->choices = palloc0(sizeof(Ia3RankedChoice));
    ranking->choices[0].choice = text;
    ranking->choices[0].probability = 1;
    return ranking;
}

Size
Ia3RankingSize(const Ia3Ranking *ranking)
{
    Size size = MAXALIGN(sizeof(Ia3Ranking)) + sizeof(Ia3RankedChoice) * ranking->n;

    for (int i = 0; i < ranking->n; i++)
        size += strlen(ranking->choices[i].choice) + 1;
    return size;
}

Ia3Ranking *
Ia3RankingCopy(const Ia3Ranking *ranking, MemoryContext context)
{
    char *chunk = MemoryContextAlloc(context, Ia3RankingSize(ranking));
    Ia3Ranking *copy = (Ia3Ranking *) chunk;
    char *strings;

    *copy = *ranking;
    copy->choices = (Ia3RankedChoice *) (chunk + MAXALIGN(sizeof(Ia3Ranking)));
    memcpy(copy->choices, ranking->choices, sizeof(Ia3RankedChoice) * ranking->n);
    strings = (char *) (copy->choices + copy->n);
    for (int i = 0; i < copy->n; i++) {
        Size length = strlen(ranking->choices[i].choice) + 1;

        memcpy(strings, ranking->choices[i].choice, length);
        copy->choices[i].choice = strings;
        strings += length;
    }
    return copy;
}
