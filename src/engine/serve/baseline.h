/*
 * baseline.h
 *     LINEAR requests, which the thread for errands carries out (errands.h).
 */
#ifndef IA3_BASELINE_H
#define IA3_BASELINE_H

#include "request.h"

/*
 * Parses a LINEAR frame. Takes ownership of frame->data even on failure. NULL on error: IA3_E_PROTOCOL (the connection must be
 * closed), IA3_E_INVALID for folds out of range, or IA3_E_TOO_LONG.
 */
ia3_request *ia3_baseline_parse(const ia3_frame *frame, ia3_error *err);

/* Predicts the rows; r->error is set if that fails. */
void ia3_baseline_run(ia3_request *r);

/* Frees what belongs to a LINEAR request only. */
void ia3_baseline_free(ia3_request *r);

#endif
