/*
 * train_jobs.h
 *     The training jobs under way, on the compute thread.
 */
#ifndef IA3_TRAIN_JOBS_H
#define IA3_TRAIN_JOBS_H

#include "serve.h"

/* The training jobs under way. */
typedef struct ia3_trainer ia3_trainer;
ia3_trainer *ia3_trainer_create(ia3_server *s);
void ia3_trainer_free(ia3_trainer *t);
/* Takes a request over (it comes back as DONE, at once when it cannot start). */
void ia3_trainer_add(ia3_trainer *t, ia3_request *r);
bool ia3_trainer_busy(const ia3_trainer *t);
/* One optimizer step of as many jobs as the token budget takes, in turn; cancelled jobs end first. */
void ia3_trainer_step(ia3_trainer *t);

#endif
