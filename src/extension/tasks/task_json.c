/*
 * task_json.c
 *     ia3_export_task and ia3_import_task: a whole task as one jsonb value, on its way to another database.
 *
 * The value has everything but what only this database knows: the owner, the readers, and whether the task is in use.
 * The number of its format is increased when a reader of the older format would misunderstand it; members that a reader
 * does not know are ignored.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "catalog.h"
#include "given.h"
#include "common/version.h"
#include "json_text.h"
#include "template.h"
#include "versions.h"
#include "writable.h"

PG_FUNCTION_INFO_V1(ia3_export_task);
PG_FUNCTION_INFO_V1(ia3_import_task);
PG_FUNCTION_INFO_V1(ia3_import_task_text);

#define FORMAT 1

/* ia3_train stores far fewer. Whoever reads ia3.adapters waits until all are read. */
#define MAX_CURVE "100000"

/* $1 is the task. Row security shows its versions to readers, but neither the queries nor the held-out scores. */
static Ia3Query exportQuery = {
    .sql = "SELECT pg_catalog.jsonb_build_object('format', $2, 'ia3_version', $3, 'task', t.task,"
           "  'backbone', t.backbone, 'template', t.template, 'choices', t.choices,"
           "  'active_version', t.active_version, 'next_version', t.next_version, 'comment', t.comment,"
           "  'min_probability', t.min_probability, 'verbalizers', t.verbalizers,"
           "  'descriptions', t.descriptions, 'multi_label', t.multi_label,"
           "  'versions', COALESCE((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object("
           "    'version', a.version, 'vectors', pg_catalog.translate(pg_catalog.encode(a.vectors, 'base64'),"
           "     E'\\n', ''), 'digest', pg_catalog.encode(a.digest, 'hex'),"
           "    'backbone_digest', pg_catalog.encode(a.backbone_digest, 'hex'),"
           "    'parent_version', a.parent_version, 'examples', a.examples, 'recipe', a.recipe,"
           "    'metrics', a.metrics, 'created_by', a.created_by, 'created_at', a.created_at,"
           "    'query', q.query, 'row_hashes', pg_catalog.translate("
           "     pg_catalog.encode(q.row_hashes, 'base64'), E'\\n', ''),"
           "    'temperature', a.temperature, 'thresholds', a.thresholds,"
           "    'held_out', (SELECT pg_catalog.jsonb_agg("
           "      pg_catalog.jsonb_build_object('row_number', s.row_number, 'fold', s.fold, 'label', s.label,"
           "       'scores', s.scores) ORDER BY s.row_number) FROM ia3.adapter_scores s"
           "     WHERE s.task OPERATOR(pg_catalog.=) a.task AND s.version OPERATOR(pg_catalog.=) a.version))"
           "    ORDER BY a.version)"
           "   FROM ia3.adapter a LEFT JOIN ia3.adapter_query q ON q.task OPERATOR(pg_catalog.=) a.task"
           "    AND q.version OPERATOR(pg_catalog.=) a.version"
           "   WHERE a.task OPERATOR(pg_catalog.=) t.task), '[]'::pg_catalog.jsonb))"
           " FROM ia3.task t WHERE t.task OPERATOR(pg_catalog.=) $1",
    .nArgs = 3,
    .argTypes = {TEXTOID, INT4OID, TEXTOID},
};

/* The task in $1 as columns: its name, templates and choices, what is wrong with it otherwise, and its wording. */
static Ia3Query readQuery = {
    .sql =
        "SELECT j.task, j.template, j.choices,"
        " CASE WHEN j.backbone IS NULL THEN 'It names no backbone.'"
        "  WHEN NOT EXISTS (SELECT 1 FROM pg_catalog.unnest(j.template) e) THEN 'It has no template.'"
        "  WHEN EXISTS (SELECT 1 FROM pg_catalog.unnest(j.template) e WHERE e IS NULL)"
        "   OR EXISTS (SELECT 1 FROM pg_catalog.unnest(j.choices) e WHERE e IS NULL)"
        "   THEN 'A template or a choice is null.'"
        "  WHEN j.min_probability OPERATOR(pg_catalog.<) 0 OR j.min_probability OPERATOR(pg_catalog.>) 1"
        "   THEN 'Its min_probability is not between 0 and 1.'"
        "  WHEN COALESCE(pg_catalog.jsonb_typeof(j.versions), 'null') OPERATOR(pg_catalog.<>) 'array'"
        "   THEN 'It has no array of versions.'"
        "  WHEN EXISTS (SELECT 1 FROM pg_catalog.jsonb_array_elements(j.versions) e"
        "   WHERE pg_catalog.jsonb_typeof(e.value) OPERATOR(pg_catalog.<>) 'object')"
        "   THEN 'A version is not a JSON object.' END, j.verbalizers, j.descriptions"
        " FROM pg_catalog.jsonb_to_record($1) AS j(task pg_catalog.text, backbone pg_catalog.text,"
        "  template pg_catalog.text[], choices pg_catalog.text[], versions pg_catalog.jsonb,"
        "  min_probability pg_catalog.float8, verbalizers pg_catalog.jsonb, descriptions pg_catalog.jsonb)",
    .nArgs = 1,
    .argTypes = {JSONBOID},
};

#define VERSIONS                                                                                             \
    "pg_catalog.jsonb_to_recordset($1 OPERATOR(pg_catalog.->) 'versions') AS v(version pg_catalog.int4,"     \
    " vectors pg_catalog.text, digest pg_catalog.text, backbone_digest pg_catalog.text,"                     \
    " parent_version pg_catalog.int4, examples pg_catalog.int4, recipe pg_catalog.jsonb,"                    \
    " metrics pg_catalog.jsonb, created_at pg_catalog.timestamptz, query pg_catalog.text,"                   \
    " row_hashes pg_catalog.text, temperature pg_catalog.float8, held_out pg_catalog.jsonb,"                 \
    " thresholds pg_catalog.jsonb)"
#define SCORES                                                                                               \
    "pg_catalog.jsonb_to_recordset(v.held_out) AS s(row_number pg_catalog.int8, fold pg_catalog.int4,"       \
    " label pg_catalog.int4, scores pg_catalog.float8[])"
/*
 * A number is never given twice, so one near the end of the integers would leave none for the name's next versions.
 */
#define MAX_NUMBER "1000000"

#define CURVE   "v.metrics OPERATOR(pg_catalog.->) 'loss_curve'"
#define VECTORS "pg_catalog.decode(v.vectors, 'base64')"
#define HASHES  "pg_catalog.decode(v.row_hashes, 'base64')"

/* A member that may be missing, or null. */
#define OBJECT(member)                                                                                       \
    "CASE WHEN pg_catalog.jsonb_typeof(" member ") OPERATOR(pg_catalog.=) 'object' THEN " member " END"

/* What is wrong with the first version that cannot be stored. */
static Ia3Query checkQuery = {
    .sql = "SELECT p.problem FROM (SELECT CASE"
           " WHEN v.version IS NULL OR v.version OPERATOR(pg_catalog.<) 1 THEN 'A version has no number.'"
           " WHEN v.version OPERATOR(pg_catalog.>) " MAX_NUMBER
           "  THEN pg_catalog.format('The number of version %s is too high.', v.version)"
           " WHEN pg_catalog.count(*) OVER (PARTITION BY v.version) OPERATOR(pg_catalog.>) 1"
           "  THEN pg_catalog.format('There is more than one version %s.', v.version)"
           " WHEN COALESCE(v.vectors, '') OPERATOR(pg_catalog.=) '' OR v.digest IS NULL OR v.recipe IS NULL"
           "  OR pg_catalog.jsonb_typeof(v.recipe) OPERATOR(pg_catalog.<>) 'object'"
           "  OR COALESCE(pg_catalog.length(v.backbone_digest), 0) OPERATOR(pg_catalog.<>) 64"
           "  THEN pg_catalog.format('Version %s lacks its vectors, a digest or its recipe.', v.version)"
           " WHEN pg_catalog.encode(pg_catalog.sha256(" VECTORS "), 'hex') OPERATOR(pg_catalog.<>) v.digest"
           "  THEN pg_catalog.format('The vectors of version %s do not match their digest.', v.version)"
           " WHEN pg_catalog.octet_length(" HASHES ") OPERATOR(pg_catalog.%) 8 OPERATOR(pg_catalog.<>) 0"
           "  THEN pg_catalog.format('The hashes of version %s are not of 8 bytes each.', v.version)"
           " WHEN COALESCE(pg_catalog.jsonb_typeof(v.metrics), 'object') OPERATOR(pg_catalog.<>) 'object'"
           "  THEN pg_catalog.format('The metrics of version %s are not a JSON object.', v.version)"
           " WHEN CASE WHEN pg_catalog.jsonb_typeof(" CURVE ") OPERATOR(pg_catalog.=) 'array'"
           "   THEN pg_catalog.jsonb_array_length(" CURVE ") OPERATOR(pg_catalog.>) " MAX_CURVE " END"
           "  THEN pg_catalog.format('The loss curve of version %s has more than " MAX_CURVE " numbers.',"
           "   v.version)"
           " WHEN NOT (v.temperature OPERATOR(pg_catalog.>=) 0.05"
           "   AND v.temperature OPERATOR(pg_catalog.<=) 20)"
           "  THEN pg_catalog.format('The temperature of version %s is not between 0.05 and 20.', v.version)"
           " WHEN pg_catalog.jsonb_typeof(v.thresholds) OPERATOR(pg_catalog.<>) ALL ('{\"null\",object}')"
           "   OR CASE WHEN pg_catalog.jsonb_typeof(v.thresholds) OPERATOR(pg_catalog.=) 'object'"
           "   THEN EXISTS (SELECT 1 FROM pg_catalog.jsonb_each(v.thresholds) e"
           "    WHERE CASE WHEN pg_catalog.jsonb_typeof(e.value) OPERATOR(pg_catalog.=) 'number'"
           "     THEN e.value OPERATOR(pg_catalog.<) '0' OR e.value OPERATOR(pg_catalog.>) '1'"
           "     ELSE true END) END"
           "  THEN pg_catalog.format('The thresholds of version %s are not numbers from 0 to 1.', v.version)"
           " WHEN COALESCE(pg_catalog.jsonb_typeof(v.held_out), 'null')"
           "   OPERATOR(pg_catalog.<>) ALL ('{\"null\",array}')"
           "  THEN pg_catalog.format('The held-out rows of version %s are not an array.', v.version)"
           " WHEN CASE WHEN pg_catalog.jsonb_typeof(v.held_out) OPERATOR(pg_catalog.=) 'array'"
           "   THEN EXISTS (SELECT 1 FROM pg_catalog.jsonb_array_elements(v.held_out) e"
           "    WHERE pg_catalog.jsonb_typeof(e.value) OPERATOR(pg_catalog.<>) 'object') END"
           "  THEN pg_catalog.format('A held-out row of version %s is not a JSON object.', v.version)"
           " WHEN CASE WHEN pg_catalog.jsonb_typeof(v.held_out) OPERATOR(pg_catalog.=) 'array'"
           "   THEN EXISTS (SELECT 1 FROM " SCORES " GROUP BY s.row_number"
           "    HAVING s.row_number IS NULL OR pg_catalog.count(*) OPERATOR(pg_catalog.>) 1) END"
           "  THEN pg_catalog.format('The held-out rows of version %s are not numbered.', v.version) END"
           "  AS problem FROM " VERSIONS ") p WHERE p.problem IS NOT NULL LIMIT 1",
    .nArgs = 1,
    .argTypes = {JSONBOID},
};

/* What has to be added to the numbers of the versions under the name $2, as in given.c. */
static Ia3Query shiftQuery = {
    .sql = "SELECT CASE WHEN EXISTS (SELECT 1 FROM " VERSIONS " JOIN ia3.given_version g"
           "  ON g.version OPERATOR(pg_catalog.=) v.version AND g.task OPERATOR(pg_catalog.=) $2"
           "  WHERE g.fingerprint OPERATOR(pg_catalog.<>) " IA3_FINGERPRINT(
               "pg_catalog.decode(v.digest, 'hex')", "pg_catalog.decode(v.backbone_digest, 'hex')",
               "v.recipe OPERATOR(pg_catalog.-) 'query'::pg_catalog.text",
               "v.temperature") ")"
                                " THEN " IA3_HIGHEST_GIVEN("$2") " ELSE 0 END",
    .nArgs = 2,
    .argTypes = {JSONBOID, TEXTOID},
};

/* $2 is the name, $3 the caller, $5 what is added to the numbers of versions. A version that is not there cannot be active. Runs as the owner of the tables. */
/* clang-format off */
static Ia3Query importQuery = {
    .sql =
        "WITH given AS (SELECT v.version OPERATOR(pg_catalog.+) $5 AS number, v.* FROM " VERSIONS "),"
        " made AS (INSERT INTO ia3.task (task, owner, backbone, template, choices, active_version,"
        "   next_version, comment, min_probability, verbalizers, descriptions, multi_label)"
        "  SELECT $2, ia3.role($3), j.backbone, j.template, j.choices,"
        "   (SELECT g.number FROM given g WHERE g.version OPERATOR(pg_catalog.=) j.active_version),"
        "   GREATEST(j.next_version OPERATOR(pg_catalog.+) $5, (SELECT pg_catalog.max(g.number) FROM given g)"
        "    OPERATOR(pg_catalog.+) 1, " IA3_HIGHEST_GIVEN("$2") " OPERATOR(pg_catalog.+) 1), j.comment,"
        "   j.min_probability, " OBJECT("j.verbalizers") ", " OBJECT("j.descriptions") ","
        "   COALESCE(j.multi_label, false)"
        "  FROM pg_catalog.jsonb_to_record($1) AS j(backbone pg_catalog.text, template pg_catalog.text[],"
        "   choices pg_catalog.text[], active_version pg_catalog.int4, next_version pg_catalog.int4,"
        "   comment pg_catalog.text, min_probability pg_catalog.float8, verbalizers pg_catalog.jsonb,"
        "   descriptions pg_catalog.jsonb, multi_label pg_catalog.bool)"
        "  ON CONFLICT (task) DO NOTHING RETURNING task),"
        " versions AS (INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, parent_version,"
        "   examples, recipe, metrics, created_by, created_at, temperature, thresholds)"
        "  SELECT m.task, v.number, " VECTORS ", pg_catalog.decode(v.backbone_digest, 'hex'),"
        "   v.parent_version OPERATOR(pg_catalog.+) $5, v.examples,"
        "   v.recipe OPERATOR(pg_catalog.-) 'query'::pg_catalog.text, v.metrics, $4,"
        "   COALESCE(v.created_at, pg_catalog.now()), v.temperature, " OBJECT("v.thresholds")
        "  FROM given v CROSS JOIN made m),"
        " queries AS (INSERT INTO ia3.adapter_query (task, version, query, row_hashes)"
        "  SELECT m.task, v.number, COALESCE(v.query, v.recipe OPERATOR(pg_catalog.->>) 'query'), " HASHES
        "  FROM given v CROSS JOIN made m"
        "  WHERE COALESCE(v.query, v.recipe OPERATOR(pg_catalog.->>) 'query') IS NOT NULL),"
        " scores AS (INSERT INTO ia3.adapter_scores (task, version, row_number, fold, label, scores)"
        "  SELECT m.task, v.number, s.row_number, s.fold, s.label, s.scores"
        "  FROM given v CROSS JOIN made m CROSS JOIN " SCORES
        "  WHERE pg_catalog.jsonb_typeof(v.held_out) OPERATOR(pg_catalog.=) 'array')"
        " SELECT 1 FROM made",
    .nArgs = 5,
    .argTypes = {JSONBOID, TEXTOID, REGROLEOID, NAMEOID, INT4OID},
};
/* clang-format on */

Datum
ia3_export_task(PG_FUNCTION_ARGS)
{
    MemoryContext caller = CurrentMemoryContext;
    char *task = text_to_cstring(PG_GETARG_TEXT_PP(0));
    Datum values[3], result;
    bool isNull;

    Ia3TaskCheckName(task);
    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(task);
    values[1] = Int32GetDatum(FORMAT);
    values[2] = CStringGetTextDatum(IA3_VERSION);
    if (Ia3QueryRun(&exportQuery, values, NULL, true) == 0)
        Ia3VersionsRaiseNotOwned(task);
    MemoryContextSwitchTo(caller);
    result = PointerGetDatum(PG_DETOAST_DATUM_COPY(Ia3QueryColumn(1, &isNull)));
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    PG_RETURN_DATUM(result);
}

static void
raise_invalid(const char *detail)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("not an exported ia3 task"),
                    errdetail("%s", detail)));
}

static void
check_format(Jsonb *export)
{
    JsonbValue value;

    if (!JB_ROOT_IS_OBJECT(export))
        raise_invalid("It is not a JSON object.");
    if (getKeyJsonValueFromContainer(&export->root, "format", 6, &value) == NULL || value.type != jbvNumeric)
        raise_invalid("It has no number of a format.");
    if (!DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(value.val.numeric),
                                          DirectFunctionCall1(int4_numeric, Int32GetDatum(FORMAT)))))
        ereport(
            ERROR,
            (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("unsupported format of an exported ia3 task"),
             errdetail("The format is %s; this version of ia3 reads format %d.",
                       DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric))),
                       FORMAT)));
}

/* Checks everything but the name, which it returns, NULL if there is none. */
static char *
check_export(Datum export)
{
    MemoryContext caller = CurrentMemoryContext;
    char *name = NULL;
    bool isNull;
    Datum value;

    check_format(DatumGetJsonbP(export));
    Ia3SpiConnect();
    Ia3QueryRun(&readQuery, &export, NULL, true);
    value = Ia3QueryColumn(4, &isNull);
    if (!isNull)
        raise_invalid(TextDatumGetCString(value));
    (void) Ia3TemplatesParse(Ia3StringsFromArray(Ia3QueryColumn(2, &isNull), "template"),
                             IA3_TRUNCATE_LONGEST);
    Ia3WordingCheck(Ia3WordingMake(Ia3QueryJsonb(5), Ia3QueryJsonb(6)));
    value = Ia3QueryColumn(1, &isNull);
    if (!isNull)
        name = MemoryContextStrdup(caller, TextDatumGetCString(value));
    if (Ia3QueryRun(&checkQuery, &export, NULL, true) > 0)
        raise_invalid(TextDatumGetCString(Ia3QueryColumn(1, &isNull)));
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    return name;
}

static int
find_shift(Datum *values)
{
    bool isNull;

    Ia3QueryRun(&shiftQuery, values, NULL, false);
    return DatumGetInt32(Ia3QueryColumn(1, &isNull));
}

/* Makes the task, under the given name or, if that is NULL, under its own, and returns the name. */
static Datum
import_task(Datum export, char *name)
{
    NameData creator;
    Ia3Identity caller;
    Datum values[5];
    bool made;
    char *own;
    int shift;

    Ia3CheckWritable("ia3_import_task()");
    own = check_export(export);
    if (name == NULL)
        name = own;
    if (name == NULL)
        raise_invalid("It has no name.");
    Ia3TaskCheckName(name);
    Ia3VersionsCheckNew(name);

    namestrcpy(&creator, GetUserNameFromId(GetUserId(), false));
    Ia3SpiConnect();
    values[0] = export;
    values[1] = CStringGetTextDatum(name);
    values[3] = NameGetDatum(&creator);
    caller = Ia3BecomeTableOwner();
    values[2] = ObjectIdGetDatum(caller.user);
    shift = find_shift(values);
    values[4] = Int32GetDatum(shift);
    made = Ia3QueryRun(&importQuery, values, NULL, false) > 0;
    Ia3BecomeAgain(caller);
    if (!made)
        Ia3VersionsRaiseTaken(name);
    Ia3SpiFinish();
    Ia3GivenReportShift(name, shift);
    return CStringGetTextDatum(name);
}

Datum
ia3_import_task(PG_FUNCTION_ARGS)
{
    if (PG_ARGISNULL(0))
        PG_RETURN_NULL();
    PG_RETURN_DATUM(
        import_task(PG_GETARG_DATUM(0), PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

/* The same for an export of type json or text. */
Datum
ia3_import_task_text(PG_FUNCTION_ARGS)
{
    if (PG_ARGISNULL(0))
        PG_RETURN_NULL();
    PG_RETURN_DATUM(import_task(JsonbPGetDatum(Ia3JsonbFromText(PG_GETARG_DATUM(0))),
                                PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1))));
}
