/*
 * levels.c
 *     Choices that are paths in a hierarchy: the upper levels of an answer.
 *
 * The engine knows nothing of levels. Its trie shares the tokens that choices begin with, so it computes a common path once.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "levels.h"
#include "extension/client/string_list.h"

int
Ia3LevelsDepth(FunctionCallInfo fcinfo, int arg)
{
    if (PG_ARGISNULL(arg))
        return 0;
    if (PG_GETARG_INT32(arg) < 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("depth must be positive")));
    return PG_GETARG_INT32(arg);
}

const char *
Ia3LevelsSeparator(FunctionCallInfo fcinfo, int arg)
{
    const char *separator =
        PG_ARGISNULL(arg) ? IA3_DEFAULT_SEPARATOR : text_to_cstring(PG_GETARG_TEXT_PP(arg));

    if (*separator == '\0')
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("separator must not be empty")));
    return separator;
}

/* The first levels of a path. */
static char *
upper_levels(const char *path, int depth, const char *separator)
{
    Size len = strlen(separator);
    const char *at = path;

    for (int level = 1;; level++) {
        const char *end = strstr(at, separator);

        if (end == NULL)
            return (char *) path;
        if (level == depth)
            return pnstrdup(path, end - path);
        at = end + len;
    }
}

/* Groups are made in the order of their best choices, so their number says which of equals ranked higher. */
typedef struct Group {
    Ia3RankedChoice choice;
    int number;
} Group;

static int
compare_groups(const void *a, const void *b)
{
    const Group *x = a, *y = b;

    if (x->choice.probability != y->choice.probability)
        return x->choice.probability > y->choice.probability ? -1 : 1;
    return x->number - y->number;
}

Ia3Ranking *
Ia3LevelsGroup(const Ia3Ranking *ranking, int depth, const char *separator)
{
    Ia3Ranking *grouped = palloc(sizeof(Ia3Ranking));
    Ia3StringIndex *index = Ia3StringIndexCreate();
    Group *groups = palloc(sizeof(Group) * ranking->n);

    *grouped = *ranking;
    grouped->n = 0;
    for (int i = 0; i < ranking->n; i++) {
        char *upper = upper_levels(ranking->choices[i].choice, depth, separator);
        bool found;
        int at = Ia3StringIndexAdd(index, upper, &found);

        CHECK_FOR_INTERRUPTS();
        if (found) {
            groups[at].choice.probability += ranking->choices[i].probability;
            continue;
        }
        groups[at] = (Group){ranking->choices[i], at};
        groups[at].choice.choice = upper;
        grouped->n++;
    }
    qsort(groups, grouped->n, sizeof(Group), compare_groups);
    grouped->choices = palloc(sizeof(Ia3RankedChoice) * grouped->n);
    for (int i = 0; i < grouped->n; i++)
        grouped->choices[i] = groups[i].choice;
    pfree(groups);
    return grouped;
}
