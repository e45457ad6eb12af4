/*
 * mixture.c
 *     The examples of several tasks, on which one adapter is trained.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "mixture.h"
#include "extension/client/text.h"
#include "row_hashes.h"
#include "train_rows.h"

/* The templates of one task, or of all tasks. */
typedef struct TemplateList {
    char *task; /* NULL: every task */
    int n;
    Ia3Template **templates;
} TemplateList;

struct Ia3Mixture {
    Ia3TrainRows *rows;
    int nLists;
    TemplateList *lists;
    Ia3StringIndex *listed; /* the tasks of the lists; NULL if there is one for every task */
    Ia3StringIndex *tasks, *labels;
    int *task, *label; /* [rows->n] positions in `tasks` and `labels` */
    int *list;         /* [tasks] position of the task's templates in `lists` */
};

static void
bad_templates(void)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("templates must be a JSON object of strings or arrays of strings"),
                    errhint("Write {\"a task\": \"a template\", \"another\": [\"one\", \"two\"]}.")));
}

static void
add_template(TemplateList *list, const JsonbValue *v, Ia3Truncate truncate)
{
    CHECK_FOR_INTERRUPTS();
    if (v->type != jbvString)
        bad_templates();
    list->templates = list->n == 0 ? palloc(sizeof(Ia3Template *))
                                   : repalloc(list->templates, sizeof(Ia3Template *) * (list->n + 1));
    list->templates[list->n++] = Ia3TemplateParse(pnstrdup(v->val.string.val, v->val.string.len), truncate);
}

/* Reads the value of a member of the object, whose key has been read. */
static void
read_list(TemplateList *list, JsonbIterator **it, Ia3Truncate truncate)
{
    JsonbValue v;
    JsonbIteratorToken token = JsonbIteratorNext(it, &v, true); /* an array is returned as a whole */

    if (token == WJB_VALUE && v.type == jbvBinary && JsonContainerIsArray(v.val.binary.data)) {
        JsonbIterator *elements = JsonbIteratorInit(v.val.binary.data);

        while ((token = JsonbIteratorNext(&elements, &v, true)) != WJB_DONE)
            if (token == WJB_ELEM)
                add_template(list, &v, truncate);
    } else
        add_template(list, &v, truncate);
    if (list->n == 0)
        bad_templates();
}

static void
read_lists(Ia3Mixture *m, Jsonb *templates, Ia3Truncate truncate)
{
    JsonbIterator *it;
    JsonbIteratorToken token;
    JsonbValue v;

    if (!JB_ROOT_IS_OBJECT(templates) || JB_ROOT_COUNT(templates) == 0)
        bad_templates();
    m->lists = palloc0(sizeof(TemplateList) * JB_ROOT_COUNT(templates));
    m->listed = Ia3StringIndexCreate();
    it = JsonbIteratorInit(&templates->root);
    while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE) {
        TemplateList *list;
        bool found;

        CHECK_FOR_INTERRUPTS();
        if (token != WJB_KEY)
            continue;
        list = &m->lists[m->nLists++];
        list->task = pnstrdup(v.val.string.val, v.val.string.len);
        Ia3StringIndexAdd(m->listed, list->task, &found); /* keys of an object are distinct */
        read_list(list, &it, truncate);
    }
}

/* Reads the rows, which must have the fields of all templates, and the task. */
static Ia3TrainRows *
read_rows(const Ia3Mixture *m, const Ia3Recipe *recipe, const char *query)
{
    Ia3Template **all;
    int n = 0;

    for (int i = 0; i < m->nLists; i++)
        n += m->lists[i].n;
    all = palloc(sizeof(Ia3Template *) * (n + 1));
    n = 0;
    for (int i = 0; i < m->nLists; i++)
        for (int t = 0; t < m->lists[i].n; t++)
            all[n++] = m->lists[i].templates[t];
    all[n++] = Ia3TemplateParse("{task}", recipe->truncate);
    return Ia3ReadTrainRows(query, all, n, NULL);
}

static int
find_list(const Ia3Mixture *m, const char *task)
{
    int found = m->listed ? Ia3StringIndexFind(m->listed, task) : 0;

    if (found >= 0)
        return found;
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("task \"%s\" has no template", task),
             errdetail("The query returns rows of this task, but \"templates\" does not contain it.")));
    return -1;
}

/* Numbers the tasks and the labels, and finds the templates of each task. */
static void
index_rows(Ia3Mixture *m)
{
    int field = 0, capacity = 8;

    while (strcmp(m->rows->fields[field], "task") != 0)
        field++;
    m->tasks = Ia3StringIndexCreate();
    m->labels = Ia3StringIndexCreate();
    m->task = Ia3ArrayOf(m->rows->n, sizeof(int));
    m->label = Ia3ArrayOf(m->rows->n, sizeof(int));
    m->list = palloc(sizeof(int) * capacity);
    for (int i = 0; i < m->rows->n; i++) {
        Ia3TrainRow *row = &m->rows->rows[i];
        bool found;

        CHECK_FOR_INTERRUPTS();
        if (row->values[field][0] == '\0')
            ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                            errmsg("row %d of the query has a null or empty task", i + 1)));
        m->task[i] = Ia3StringIndexAdd(m->tasks, row->values[field], &found);
        if (!found) {
            if (m->task[i] == capacity) {
                capacity *= 2;
                m->list = repalloc(m->list, sizeof(int) * capacity);
            }
            m->list[m->task[i]] = find_list(m, row->values[field]);
        }
        m->label[i] = Ia3StringIndexAdd(m->labels, row->label, &found);
    }
}

Ia3Mixture *
Ia3MixtureRead(const char *query, const Ia3Recipe *recipe, Jsonb *templates)
{
    Ia3Mixture *m = palloc0(sizeof(Ia3Mixture));

    if (templates)
        read_lists(m, templates, recipe->truncate);
    else {
        m->nLists = 1;
        m->lists = palloc0(sizeof(TemplateList));
        m->lists[0].n = recipe->templates->n;
        m->lists[0].templates = Ia3TemplatesParse(recipe->templates, recipe->truncate);
    }
    m->rows = read_rows(m, recipe, query);
    index_rows(m);
    return m;
}

void
Ia3MixturePut(ia3_writer *w, void *mixture)
{
    const Ia3Mixture *m = mixture;
    const Ia3Strings *labels = Ia3StringIndexStrings(m->labels);
    MemoryContext scratch =
        AllocSetContextCreate(CurrentMemoryContext, "ia3 rendering", ALLOCSET_DEFAULT_SIZES);
    MemoryContext old = MemoryContextSwitchTo(scratch);

    ia3_put_u32(w, labels->n);
    for (int i = 0; i < labels->n; i++) {
        Ia3Strings one = {1, &labels->items[i]};

        Ia3PutChoices(w, &one, false);
        MemoryContextReset(scratch);
    }
    ia3_put_u32(w, 0); /* no label has verbalizers */
    ia3_put_u32(w, m->rows->n);
    for (int i = 0; i < m->rows->n; i++) {
        const Ia3TrainRow *row = &m->rows->rows[i];
        const TemplateList *list = &m->lists[m->list[m->task[i]]];
        const Ia3PromptLists choices = Ia3WordingLists(NULL, row->choices);

        CHECK_FOR_INTERRUPTS();
        ia3_put_u32(w, m->label[i]);
        ia3_put_u32(w, 1); /* the label of this row is the only one of its set */
        ia3_put_u32(w, 0);
        ia3_put_u32(w, list->n);
        for (int t = 0; t < list->n; t++) {
            Ia3Input input;

            Ia3TrainRowRender(m->rows, row, list->templates[t], &choices, &input);
            Ia3PutInput(w, &input);
        }
        MemoryContextReset(scratch);
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(scratch);
}

bytea *
Ia3MixtureRowHashes(const Ia3Mixture *m)
{
    Ia3RowHasher *hasher = Ia3RowHasherCreate(m->rows, m->rows->n);

    for (int i = 0; i < m->rows->n; i++)
        Ia3RowHasherAdd(hasher, &m->rows->rows[i], m->lists[m->list[m->task[i]]].templates[0]);
    return Ia3RowHasherResult(hasher);
}

void
Ia3MixturePutTasks(const Ia3Mixture *m, Ia3JsonObject *recipe)
{
    const Ia3Strings *tasks = Ia3StringIndexStrings(m->tasks);
    int *count = palloc0(sizeof(int) * Max(tasks->n, 1));

    for (int i = 0; i < m->rows->n; i++)
        count[m->task[i]]++;
    Ia3JsonBeginMember(recipe, "tasks");
    for (int t = 0; t < tasks->n; t++)
        Ia3JsonPutInteger(recipe, tasks->items[t], count[t]);
    Ia3JsonEndMember(recipe);
}
