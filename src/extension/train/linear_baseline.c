/*
 * linear_baseline.c
 *     What a bag of words with logistic regression predicts for held-out rows.
 *
 * The engine fits the models, on a thread of its own: fitting cannot be interrupted, and a backend has to remain
 * interruptible.
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/formatting.h"
#include "utils/memutils.h"

#include "extension/client/client.h"
#include "linear_baseline.h"

typedef struct Words {
    Ia3StringIndex *index;
    int *words; /* of the row at hand */
    int n, capacity;
} Words;

static bool
is_word_character(const char *p)
{
    return IS_HIGHBIT_SET(*p) || isalnum((unsigned char) *p);
}

static void
add_word(Words *w, const char *word, int len)
{
    char *copy = pnstrdup(word, len);
    bool found;

    if (w->n == w->capacity) {
        w->capacity *= 2;
        w->words = repalloc_huge(w->words, sizeof(int) * (Size) w->capacity);
    }
    w->words[w->n++] = Ia3StringIndexAdd(w->index, copy, &found);
    if (found)
        pfree(copy);
}

static void
collect_words(Words *w, const char *value)
{
    char *text = str_tolower(value, strlen(value), DEFAULT_COLLATION_OID);

    for (const char *p = text; *p;) {
        const char *start = p;

        while (*p && is_word_character(p))
            p += pg_mblen(p);
        if (p > start)
            add_word(w, start, p - start);
        else
            p += pg_mblen(p);
    }
    pfree(text);
}

static int
count_rows(const Ia3Examples *examples, const int *fold)
{
    int n = 0;

    for (int i = 0; i < examples->rows->n; i++)
        n += fold[i] != IA3_LINEAR_OMIT;
    return n;
}

/*
 * Writes the rows, of which the engine takes only so many words and labels. Returns false as soon as there are more, so that
 * no time or memory is spent on them.
 */
static bool
put_rows(ia3_writer *writer, const Ia3Examples *examples, const int *fold)
{
    const Ia3TrainRows *rows = examples->rows;
    Words w = {.index = Ia3StringIndexCreate(), .capacity = 64};
    uint64 values = 0; /* of the matrix of features, with a constant in each row */

    if (rows->n > IA3_MAX_ROWS)
        return false;
    w.words = palloc(sizeof(int) * w.capacity);
    ia3_put_u32(writer, count_rows(examples, fold));
    for (int i = 0; i < rows->n; i++) {
        CHECK_FOR_INTERRUPTS();
        if (fold[i] == IA3_LINEAR_OMIT)
            continue;
        w.n = 0;
        for (int f = 0; f < rows->nFields; f++)
            collect_words(&w, rows->rows[i].values[f]);
        values += w.n + 1;
        if ((values + Max(Ia3StringIndexStrings(w.index)->n, 1)) * examples->common->n > IA3_MAX_LINEAR)
            return false;
        ia3_put_u32(writer, examples->label[i]);
        ia3_put_u32(writer, fold[i]);
        ia3_put_u32(writer, w.n);
        for (int k = 0; k < w.n; k++)
            ia3_put_u32(writer, w.words[k]);
    }
    return true;
}

bool
Ia3LinearPredict(const Ia3Examples *examples, const char *backbone, const int *fold, int *predicted)
{
    MemoryContext scratch, old;
    ia3_reader reader;
    uint8 type;
    bool fits;

    if (examples->nSets != 1 || examples->common == NULL)
        return false;
    scratch = AllocSetContextCreate(CurrentMemoryContext, "ia3 words", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(scratch);
    fits = put_rows(Ia3RequestBegin(backbone), examples, fold);
    if (fits) {
        Ia3RequestSend(IA3_LINEAR);
        type = Ia3ReplyWait(&reader);
        if (type != IA3_LINEAR_OK || ia3_get_u32(&reader) != count_rows(examples, fold))
            Ia3ProtocolError("The engine did not answer LINEAR with a label for each row.");
        for (int i = 0; i < examples->rows->n; i++) {
            uint32 label;

            if (fold[i] == IA3_LINEAR_OMIT)
                continue;
            label = ia3_get_u32(&reader);
            if (label >= examples->common->n)
                Ia3ProtocolError("The engine predicted a label that does not exist.");
            predicted[i] = label;
        }
        if (reader.bad || reader.p != reader.end)
            Ia3ProtocolError("The length of the labels does not match their number.");
    } else {
        Ia3RequestAbandon();
        ereport(NOTICE, (errmsg("no linear model was fitted: there are too many words and labels")));
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(scratch);
    return fits;
}
