/*
 * value_text.h
 *     How values of any type become the text of a template's field, a label or a choice.
 *
 * A field reads the same whether it comes from a column of a query or from to_jsonb(row): columns are converted by
 * to_jsonb first. What its result depends on (TimeZone for timestamptz, IntervalStyle, bytea_output, extra_float_digits,
 * lc_monetary) has to be set alike in the sessions that train and that predict.
 */
#ifndef IA3_VALUE_TEXT_H
#define IA3_VALUE_TEXT_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"

/*
 * The text of a JSON value: a string without its quotes, the JSON text of an array or an object, "" for null. Palloc'd,
 * or a constant.
 */
extern const char *Ia3JsonText(const JsonbValue *value);

/* How values of one type become text. */
typedef struct Ia3ValueText {
    Oid type;
    FmgrInfo function;
    bool isJsonb;  /* the function returns jsonb */
    bool isString; /* the function returns a C string */
    bool isText;   /* no function is needed */
} Ia3ValueText;

/* As a field: to_jsonb(value), then Ia3JsonText. Its memory lives in the current context. */
extern void Ia3FieldTextInit(Ia3ValueText *how, Oid type);
/* As a label or a choice: value::text. ERROR 42804 for an array; `what` is "label" or "choice". */
extern void Ia3LabelTextInit(Ia3ValueText *how, Oid type, const char *what);
/* As the type's output function writes it: fields, labels and choices of versions that were trained before 1.0. */
extern void Ia3OutputTextInit(Ia3ValueText *how, Oid type);

/* The text of a value that is not NULL; palloc'd, or a constant. */
extern const char *Ia3ValueTextOf(Ia3ValueText *how, Datum value);

#endif
