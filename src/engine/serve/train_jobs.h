/*
 * train_jobs.h
 *     The current training runs, on the compute thread.
 */
#ifndef IA3_TRAIN_JOBS_H
#define IA3_TRAIN_JOBS_H

#include "serve.h"

/* The set of current training runs ("jobs"). */
typedef struct ia3_trainer ia3_trainer;
ia3_trainer *ia3_trainer_create(ia3_server *s);
void ia3_trainer_free(ia3_trainer *t);
/* Takes over a request. It comes back as DONE, at once if it cannot start. */
void ia3_trainer_add(ia3_trainer *t, ia3_request *r);
bool ia3_trainer_busy(const ia3_trainer *t);
/* Ends cancelled jobs, then does one optimizer step of as many jobs as the token budget allows; jobs take turns. */
void ia3_trainer_step(ia3_trainer *t);

#endif
