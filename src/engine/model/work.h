/*
 * work.h
 *     How many floating-point operations a pass takes (common/cost.h), from the rows of its batch.
 */
#ifndef IA3_WORK_H
#define IA3_WORK_H

#include "batch.h"
#include "common/cost.h"

ia3_sizes ia3_sizes_of(const ia3_config *config);

typedef enum ia3_pass_kind {
    IA3_PASS_SCORES,   /* ia3_pass_forward without training */
    IA3_PASS_MORE,     /* ia3_pass_decode_more */
    IA3_PASS_TRAINING, /* ia3_pass_forward and ia3_pass_backward */
} ia3_pass_kind;

/*
 * The FLOPs of one input with its decoder rows. All that is computed belongs to some input; what the rows of one input add
 * does not depend on the others.
 */
double ia3_input_flops(const ia3_model *m, const ia3_batch *b, int input, ia3_pass_kind kind);

/*
 * The FLOPs of `steps` steps of generation for one input, with the keys and values of earlier steps cached. There are no
 * logits in the first `lead` steps, and in the first `idle` ones the input's row attends to itself alone (generate.c).
 */
double ia3_generation_flops(const ia3_model *m, const ia3_batch *b, int input, int steps, int lead, int idle);

#endif
