/*
 * variant.h
 *     A method of fine-tuning with values for its options: what an adapter must be read with.
 *
 * Outside the engine a variant is the method's name and a JSON object of options, which is recorded with every version
 * ({"rank": 8, "alpha": 16, "targets": ["q", "v"]}). Its canonical form has all options of the method, in their order.
 */
#ifndef IA3_VARIANT_H
#define IA3_VARIANT_H

#include <jansson.h>

#include "config.h"
#include "engine/base/error.h"

struct ia3_method;

#define IA3_MAX_OPTIONS 5  /* of one method */
#define IA3_MAX_MEMBERS 32 /* of an ensemble */

typedef enum ia3_option_kind {
    IA3_OPTION_WHOLE,  /* a whole number */
    IA3_OPTION_NUMBER, /* any number */
    IA3_OPTION_FLAG,   /* true or false: 1 or 0 */
    /*
     * Some kinds of linear layers, as bits: 1 << IA3_KIND_Q ...; in JSON a list of names: "q" for that of both attentions,
     * "SelfAttention.q" or "EncDecAttention.q" for that of one, "wo".
     */
    IA3_OPTION_KINDS
} ia3_option_kind;

typedef struct ia3_method_option {
    const char *name;
    const char *old_name; /* that versions of earlier releases have; NULL: there is none */
    ia3_option_kind kind;
    bool hidden;     /* the tensors do not tell its value */
    bool unrecorded; /* it is not recorded with a version if its value is `before` */
    double min, max; /* of numbers */
    int kinds;       /* the kinds of layers that are allowed; 0: all */
    double standard; /* the value unless another one is specified */
    double before;   /* the value for versions without this option, which are older than it */
    int divisor; /* if not 0, the value 0 stands for d_model divided by this, at least 1 and at most max */
    int multiple; /* if not 0, whole numbers must be multiples of this, to which the default is rounded down, but not to 0 */
} ia3_method_option;

/* `members` is the option "ensemble", which all methods have, and which is recorded if it is not 1 (ensemble.h). */
typedef struct ia3_variant {
    const struct ia3_method *method;
    int members;
    double options[IA3_MAX_OPTIONS]; /* in the order of the method's options; the rest is 0 */
} ia3_variant;

/* The variant that new adapters of the method have unless options are specified. */
ia3_variant ia3_variant_standard(const struct ia3_method *method);
bool ia3_variant_equal(const ia3_variant *a, const ia3_variant *b);

/*
 * Changes the options that an object in JSON, of len bytes, has; if len is 0, none. IA3_E_INVALID for a malformed
 * object, an unknown option, or a value that is not allowed.
 */
bool ia3_variant_change(ia3_variant *v, const char *json, size_t len, ia3_error *err);
/*
 * The variant of an adapter with this record, which may be of an earlier release. IA3_E_UNSUPPORTED for what this engine
 * does not know.
 */
bool ia3_variant_read(ia3_variant *v, const struct ia3_method *method, const char *json, size_t len,
                      ia3_error *err);
/* Checks the values. IA3_E_INVALID names the option. */
bool ia3_variant_check(const ia3_variant *v, ia3_error *err);
/* The canonical form, malloc'd; an empty string if there is nothing to record. */
char *ia3_variant_text(const ia3_variant *v);
/* Leaves out the kinds of linear layers that a backbone does not have, and computes what depends on its d_model. */
void ia3_variant_fit(ia3_variant *v, const ia3_config *config);

/* Kinds of linear layers as a list of names, and from one; a name that means none of the allowed kinds is IA3_E_INVALID. */
json_t *ia3_kinds_to_json(double kinds);
bool ia3_kinds_from_json(const char *what, const json_t *names, int allowed, double *kinds, ia3_error *err);

#endif
