/*
 * long_texts.h
 *     The thread that tokenizes long texts, one at a time in the order of arrival. Such a text takes tens of
 *     milliseconds, during which the I/O thread could not serve other clients.
 *
 * While a request is with this thread it is `away`: the I/O thread neither changes nor frees it. It comes back with
 * the event PREPARED.
 */
#ifndef IA3_LONG_TEXTS_H
#define IA3_LONG_TEXTS_H

#include <time.h>

#include "serve.h"

typedef struct ia3_long_texts ia3_long_texts;

ia3_long_texts *ia3_long_texts_create(ia3_server *s);

/*
 * Hands over a request whose next text is long (ia3_request_awaits_long_text), or a TOKENIZE request. *x must remain
 * valid, and the thread uses only its tokenizer and statistics. False if the thread cannot be started; then the request
 * is not away.
 */
bool ia3_long_texts_add(ia3_long_texts *t, ia3_request *r, ia3_request_context *x);

/* Takes a request back if its text has not been begun; then it is not away. False otherwise. */
bool ia3_long_texts_remove(ia3_long_texts *t, ia3_request *r);

/* Waits for the thread to end, at most until the time `until` (CLOCK_MONOTONIC). False if it is still busy. */
bool ia3_long_texts_stop(ia3_long_texts *t, const struct timespec *until);
void ia3_long_texts_free(ia3_long_texts *t); /* after a successful stop */

#endif
