/*
 * value_text.c
 *     Text of values, by way of to_jsonb for fields and of a cast to text for labels.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/primnodes.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "value_text.h"

const char *
Ia3JsonText(const JsonbValue *value)
{
    switch (value->type) {
    case jbvNull:
        return "";
    case jbvString:
        return pnstrdup(value->val.string.val, value->val.string.len);
    case jbvNumeric:
        return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
    case jbvBool:
        return value->val.boolean ? "true" : "false";
    case jbvBinary:
        return JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
    default:
        elog(ERROR, "unexpected type %d of a JSON value", (int) value->type);
        return NULL;
    }
}

static const char *
jsonb_text(Jsonb *jsonb)
{
    JsonbValue value;

    if (JB_ROOT_IS_SCALAR(jsonb)) {
        JsonbValue *scalar = getIthJsonbValueFromContainer(&jsonb->root, 0);

        return Ia3JsonText(scalar);
    }
    value.type = jbvBinary;
    value.val.binary.data = &jsonb->root;
    value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
    return Ia3JsonText(&value);
}

void
Ia3FieldTextInit(Ia3ValueText *how, Oid type)
{
    memset(how, 0, sizeof *how);
    how->type = type;
    if (type == TEXTOID || type == VARCHAROID) {
        how->isText = true;
        return;
    }
    how->isJsonb = true;
    fmgr_info(F_TO_JSONB, &how->function);
    /* to_jsonb takes anyelement and looks at the call for the type of its argument */
    fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
                                             list_make1(makeNullConst(type, -1, get_typcollation(type))),
                                             InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
                       &how->function);
}

void
Ia3OutputTextInit(Ia3ValueText *how, Oid type)
{
    Oid output;
    bool isVarlena;

    memset(how, 0, sizeof *how);
    how->type = type;
    how->isString = true;
    getTypeOutputInfo(type, &output, &isVarlena);
    fmgr_info(output, &how->function);
}

void
Ia3LabelTextInit(Ia3ValueText *how, Oid type, const char *what)
{
    Oid base = getBaseType(type), function;

    if (OidIsValid(get_element_type(base)))
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("a %s must not be an array", what),
                        errdetail("The type of the column is %s.", format_type_be(type))));
    memset(how, 0, sizeof *how);
    how->type = type;
    switch (find_coercion_pathway(TEXTOID, base, COERCION_EXPLICIT, &function)) {
    case COERCION_PATH_FUNC:
        fmgr_info(function, &how->function);
        break;
    case COERCION_PATH_RELABELTYPE:
        how->isText = true;
        break;
    default:
        Ia3OutputTextInit(how, type);
        break;
    }
}

const char *
Ia3ValueTextOf(Ia3ValueText *how, Datum value)
{
    if (how->isText)
        return TextDatumGetCString(value);
    if (how->isString)
        return OutputFunctionCall(&how->function, value);
    if (how->isJsonb)
        return jsonb_text(DatumGetJsonbP(FunctionCall1(&how->function, value)));
    return TextDatumGetCString(FunctionCall1Coll(&how->function, DEFAULT_COLLATION_OID, value));
}
