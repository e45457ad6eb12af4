/*
 * pickle.h
 *     Reads the part of Python's pickle format that state dictionaries of PyTorch need.
 *
 * A pickle is a program for a stack machine, and Python's machine calls whatever function the program names. This one calls
 * nothing: it knows the instructions that build values (protocols 2 to 5), and a call is a value, too, which its reader may
 * interpret. Names of functions and classes that the reader does not list are refused.
 *
 * Memory is proportional to the length of the pickle.
 */
#ifndef IA3_PICKLE_H
#define IA3_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

typedef enum ia3_pickle_kind {
    IA3_PICKLE_NONE,
    IA3_PICKLE_BOOL,
    IA3_PICKLE_INT,
    IA3_PICKLE_FLOAT,
    IA3_PICKLE_STR,
    IA3_PICKLE_TUPLE,
    IA3_PICKLE_LIST,
    IA3_PICKLE_DICT,      /* also a collections.OrderedDict */
    IA3_PICKLE_GLOBAL,    /* a function or class */
    IA3_PICKLE_CALL,      /* of a global */
    IA3_PICKLE_PERSISTENT /* a reference to something outside the pickle */
} ia3_pickle_kind;

typedef struct ia3_pickle_value ia3_pickle_value;
struct ia3_pickle_value {
    ia3_pickle_kind kind;
    uint32_t n; /* bytes of a STR, items of a TUPLE or LIST, pairs of a DICT */
    union {
        int64_t integer;   /* BOOL, INT */
        double real;       /* FLOAT */
        const char *bytes; /* STR: within the pickle, not terminated */
        int global;        /* GLOBAL: the index of its name in the reader's list */
        struct {
            ia3_pickle_value *
                *items; /* TUPLE, LIST; DICT: key and value in turn; CALL: the global, the tuple of its
                                       * arguments; PERSISTENT: one value, what identifies it */
            uint32_t room;
        };
    };
};

typedef struct ia3_pickle ia3_pickle;

/*
 * Parses the pickle at `data` [len bytes], which must outlive the result. `globals` ends with NULL and lists the names that
 * are allowed, as "module name". *used is the length of the pickle, behind which other data may follow. Errors
 * (IA3_E_BAD_CHECKPOINT) begin with `what` and name the byte or the name that is not allowed. Freeing NULL is allowed.
 */
ia3_pickle *ia3_pickle_parse(const uint8_t *data, size_t len, const char *const *globals, const char *what,
                             size_t *used, ia3_error *err);
const ia3_pickle_value *ia3_pickle_root(const ia3_pickle *p);
void ia3_pickle_free(ia3_pickle *p);

#endif
