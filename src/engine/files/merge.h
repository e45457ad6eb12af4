/*
 * merge.h
 *     A checkpoint with the vectors of one adapter folded into its weights, so that it runs without ia3.
 */
#ifndef IA3_MERGE_H
#define IA3_MERGE_H

#include <stdatomic.h>

#include "adapter.h"
#include "checkpoint.h"

/*
 * Copies the checkpoint in the directory `source` to `directory` and scales, in fp32 and rounded to the dtype in
 * which they are stored, what the method's vectors scale (merge_suffix; of (IA)³ the rows of every k and v by l_k and l_v
 * and the columns of every wo by l_ff): what peft's merge_and_unload makes (engine.md §2), with the same weight files as the
 * source. Tokenizer and
 * configuration are copied as they are.
 *
 * `digest` (NULL: any) is the backbone that `values` [n_values] of `method`, which has a merge_suffix, belong to; files that have
 * changed since it was loaded are refused. `directory` is an absolute path; it must not exist or be empty, and
 * its parent must exist. Everything is written beside it under a temporary name and renamed at the end; a
 * failure leaves nothing behind. `cancelled` (may be NULL) is looked at every few MB.
 *
 * Errors: IA3_E_INVALID for a path that cannot be used, IA3_E_FILE for what cannot be written,
 * IA3_E_BAD_CHECKPOINT for the source, IA3_E_BAD_ADAPTER when a merged weight is out of its dtype's range,
 * IA3_E_CANCELLED.
 */
bool ia3_merge(const char *source, const uint8_t *digest, const ia3_method *method, const float *values,
               const char *directory, const atomic_bool *cancelled, ia3_error *err);

#endif
