/*
 * compute_thread.c
 *     The compute thread: it loads the backbone, then computes batches and training steps in turn, so that neither has
 *     to wait for more than one of the other.
 */
#include "serve.h"

#include <stdlib.h>

#include "engine/base/alloc.h"
#include "score_batch.h"
#include "train_jobs.h"

static void
post_loading(ia3_server *s, int percent)
{
    ia3_queue_post(s->queue, &(ia3_event){.kind = IA3_EVENT_LOADING, .percent = percent});
}

void *
ia3_compute_main(void *arg)
{
    ia3_server *s = arg;
    ia3_event loaded = {.kind = IA3_EVENT_READY};
    if (!ia3_server_load(s, post_loading, &loaded.error))
        loaded.kind = IA3_EVENT_FAILED;
    ia3_queue_post(s->queue, &loaded);
    if (loaded.kind == IA3_EVENT_FAILED)
        return NULL;

    ia3_trainer *trainer = ia3_trainer_create(s);
    ia3_work *work = ia3_alloc(sizeof *work);
    while (ia3_queue_next(s->queue, ia3_trainer_busy(trainer), work)) {
        for (int i = 0; i < work->n_doomed; i++)
            ia3_adapter_free(s->model, work->doomed[i]);
        free(work->doomed);
        if (work->batch.n > 0)
            ia3_run_batch(s, &work->batch);
        for (ia3_request *r = work->trainings, *next; r; r = next) {
            next = r->lane_next;
            ia3_trainer_add(trainer, r);
        }
        if (ia3_trainer_busy(trainer))
            ia3_trainer_step(trainer);
    }
    for (int i = 0; i < work->n_doomed; i++)
        ia3_adapter_free(s->model, work->doomed[i]);
    free(work->doomed);
    free(work);
    ia3_trainer_free(trainer);
    return NULL;
}
