/*
 * merger.h
 *     MERGE requests, which the thread for errands carries out (errands.h).
 */
#ifndef IA3_MERGER_H
#define IA3_MERGER_H

#include "serve.h"

/*
 * Parses a MERGE frame. Takes ownership of frame->data even on failure. NULL on error: IA3_E_PROTOCOL (the connection
 * must be closed), or IA3_E_INVALID for an impossible path.
 */
ia3_request *ia3_merger_parse(const ia3_frame *frame, ia3_error *err);

/* Writes the merged checkpoint; r->error is set if that fails. */
void ia3_merger_run(const ia3_server *s, ia3_request *r);

#endif
