/*
 * pretrain_checkpoint.h
 *     The state of unfinished pre-training runs: the table ia3.checkpoint.
 */
#ifndef IA3_CHECKPOINT_H
#define IA3_CHECKPOINT_H

#include "common/protocol.h"
#include "extension/client/string_list.h"

#define IA3_LOSS_POINTS 100 /* of the whole run */

typedef struct Ia3Checkpoint {
    int step;     /* steps completed */
    Datum recipe; /* jsonb, as the finished version will record it */
    uint8 backboneDigest[IA3_DIGEST_LEN];
    bytea *state;
    double losses[IA3_LOSS_POINTS]; /* means over equal shares of all steps; NaN: no loss yet */
    double seconds;                 /* training time so far */
} Ia3Checkpoint;

/*
 * Reads the checkpoint of a task that the caller owns into the current memory context; false if there is none. No lock
 * on a table is held afterwards.
 */
extern bool Ia3CheckpointLoad(const char *task, Ia3Checkpoint *checkpoint);

/*
 * Saves a checkpoint in place of an earlier one. A new task is created for it, with these templates and the caller as
 * owner. ERROR as for Ia3VersionsCheckOwner.
 */
extern void Ia3CheckpointSave(const char *task, const char *backbone, const Ia3Strings *templates,
                              const Ia3Checkpoint *checkpoint);

/* Deletes the checkpoint of a task, if there is one. */
extern void Ia3CheckpointDelete(const char *task);

/* The names of the members in which two recipes differ, joined by commas; NULL if they describe the same run. */
extern char *Ia3CheckpointDifference(Datum recipe, Datum other);

/* The seed in the recipe of a checkpoint. */
extern int64 Ia3CheckpointSeed(const Ia3Checkpoint *checkpoint);

/*
 * The metrics of a run: those of its last request, `last`, with `steps`, `seconds` and `loss_curve` of the whole run.
 */
extern Datum Ia3CheckpointMetrics(Datum last, int steps, const Ia3Checkpoint *checkpoint);

#endif
