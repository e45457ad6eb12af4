/*
 * merge.h
 *     Merges the vectors of one adapter into the weights of a checkpoint, so that the result can be used without ia3.
 */
#ifndef IA3_MERGE_H
#define IA3_MERGE_H

#include <stdatomic.h>

#include "adapter.h"
#include "checkpoint.h"

/*
 * Copies the checkpoint in the directory `source` to `directory`. In the copy, weights are multiplied by the method's
 * vectors (merge_suffix; for (IA)³ the rows of every k and v by l_k and l_v, likewise q and o, and the columns of every wo by l_ff); this
 * is computed in fp32 and rounded to the dtype in which the weight is stored. The result is that of peft's
 * merge_and_unload (docs/engine.md §2), divided into the same weight files as the source. Tokenizer and configuration
 * are copied unchanged.
 *
 * `digest` identifies the backbone that `values` [n_values] of a variant, whose method must have a merge_suffix, belong to: if
 * the source no longer has it, the function fails; NULL skips this check. `directory` is an absolute path that does not
 * exist or is an empty directory; its parent must exist. All files are written to a temporary directory beside it,
 * which is renamed at the end, so a failure leaves nothing behind. `cancelled` (may be NULL) is checked every few MB.
 *
 * Errors: IA3_E_INVALID for an unsuitable path, IA3_E_FILE when a file cannot be written, IA3_E_BAD_CHECKPOINT for a
 * problem with the source, IA3_E_BAD_ADAPTER when a merged weight exceeds the range of its dtype, IA3_E_CANCELLED.
 */
bool ia3_merge(const char *source, const uint8_t *digest, const ia3_variant *variant, const float *values,
               const char *directory, const atomic_bool *cancelled, ia3_error *err);

#endif
