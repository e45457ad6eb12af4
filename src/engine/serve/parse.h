/*
 * parse.h
 *     Parses and checks the payloads of SCORE, GENERATE, TRAIN and TRAIN_RUNS. It needs neither sockets nor a model, so that it can
 *     be fuzzed on its own.
 *
 * A parsed message points into the frame, which must outlive it. The error IA3_E_PROTOCOL means that the payload is
 * malformed and the connection must be closed; after any other error the connection remains usable.
 */
#ifndef IA3_PARSE_H
#define IA3_PARSE_H

#include <stddef.h>

#include "common/protocol.h"
#include "engine/recipe/recipe.h"

typedef struct ia3_span {
    const char *data; /* not zero-terminated */
    uint32_t len;
} ia3_span;

typedef struct ia3_wire_set {
    const uint8_t *raw; /* the set's bytes in the frame, which identify it */
    size_t raw_len;
    bool multi_label;
    uint32_t n;
    uint32_t first;        /* index in ia3_wire_sets.choices */
    uint32_t n_labels;     /* in TRAIN; 0: each choice is a label */
    const uint8_t *counts; /* [n_labels] verbalizers of each label; see ia3_wire_set_count */
} ia3_wire_set;

typedef struct ia3_wire_sets {
    uint32_t n;
    ia3_wire_set *sets;
    ia3_span *choices;
} ia3_wire_sets;

typedef struct ia3_wire_input {
    ia3_span text;
    uint32_t tail; /* at most text.len */
    uint32_t n_fields;
    const uint8_t *fields; /* [n_fields] begin and end; see ia3_wire_field */
} ia3_wire_input;

typedef struct ia3_wire_row {
    uint32_t adapter, set;
    ia3_wire_input input;
} ia3_wire_row;

/* How to generate the text of a row of GENERATE (see generate.h). */
typedef struct ia3_sampling {
    uint32_t max_tokens;
    double temperature;
    uint32_t top_k;
    uint64_t seed;
} ia3_sampling;

/* A SCORE or GENERATE message. In GENERATE there are no choice sets; each row has sampling parameters instead. */
typedef struct ia3_score_message {
    uint32_t max_input_tokens;
    uint32_t n_digests;
    const uint8_t *digests; /* [n_digests][IA3_DIGEST_LEN] */
    ia3_wire_sets sets;
    uint32_t n_rows;
    ia3_wire_row *rows;
    ia3_sampling *sampling; /* GENERATE: [n_rows]; SCORE: NULL */
} ia3_score_message;

typedef struct ia3_wire_example {
    uint32_t set, n_labels, n_texts;
    uint32_t first;        /* index in ia3_train_message.inputs */
    const uint8_t *labels; /* [n_labels] the right ones; see ia3_wire_example_label */
} ia3_wire_example;

/* The weights of the examples of a run. */
typedef struct ia3_wire_weights {
    uint32_t n;         /* as many as examples; 0: all weigh the same */
    const uint8_t *raw; /* [n]; see ia3_wire_weights_read */
} ia3_wire_weights;

/* A run of TRAIN_RUNS. */
typedef struct ia3_wire_run {
    uint64_t seed;
    uint32_t n;
    const uint8_t *examples; /* [n]; see ia3_wire_run_example */
    ia3_wire_weights weights;
} ia3_wire_run;

typedef struct ia3_train_message {
    uint32_t max_input_tokens;
    ia3_recipe recipe;
    const uint8_t *init; /* [IA3_DIGEST_LEN] */
    ia3_span state;
    ia3_wire_sets sets;
    uint32_t n_examples, n_texts;
    ia3_wire_example *examples;
    ia3_wire_input *inputs;   /* [n_texts] */
    ia3_wire_weights weights; /* TRAIN */
    uint32_t n_runs;          /* TRAIN_RUNS; 0: TRAIN */
    ia3_wire_run *runs;
} ia3_train_message;

/* The message must be freed after success and may be freed after failure. */
bool ia3_parse_score(ia3_score_message *m, const uint8_t *payload, size_t len, ia3_error *err);
bool ia3_parse_generate(ia3_score_message *m, const uint8_t *payload, size_t len, ia3_error *err);
void ia3_score_message_free(ia3_score_message *m);
/* Parses TRAIN or TRAIN_RUNS, as `type` says; `methods` are those that a request may name. */
bool ia3_parse_train(ia3_train_message *m, Ia3Message type, const ia3_method *const *methods,
                     const uint8_t *payload, size_t len, ia3_error *err);
void ia3_train_message_free(ia3_train_message *m);

/* Parses HELLO and checks magic and version; `client` gets the client's name, truncated to `size`. */
bool ia3_parse_hello(const uint8_t *payload, size_t len, char *client, size_t size, ia3_error *err);

/* Where a field of an input begins and ends, 0 <= f < n_fields; within the text, and not before the field's predecessor. */
void ia3_wire_field(const ia3_wire_input *input, uint32_t f, uint32_t *begin, uint32_t *end);

/* The number of verbalizers of a label, 0 <= label < set->n_labels. */
uint32_t ia3_wire_set_count(const ia3_wire_set *set, uint32_t label);

/* A right label of an example, 0 <= i < n_labels: 0 <= label < the set's labels, and more than the one before it. */
uint32_t ia3_wire_example_label(const ia3_wire_example *example, uint32_t i);

/* The example of a run, 0 <= i < run->n: an index of the message's examples. */
uint32_t ia3_wire_run_example(const ia3_wire_run *run, uint32_t i);

/* Copies the weights to malloc'd memory; NULL if all examples weigh the same. */
double *ia3_wire_weights_read(const ia3_wire_weights *weights);

bool ia3_digest_is_zero(const uint8_t digest[IA3_DIGEST_LEN]);

#endif
