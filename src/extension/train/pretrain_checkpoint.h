/*
 * pretrain_checkpoint.h
 *     Trainings that are not finished: ia3.checkpoint.
 */
#ifndef IA3_CHECKPOINT_H
#define IA3_CHECKPOINT_H

#include "common/protocol.h"
#include "extension/client/string_list.h"

#include "storage/lock.h"

#define IA3_LOSS_POINTS 100 /* of the whole training */

typedef struct Ia3Checkpoint {
    int step;     /* done */
    Datum recipe; /* jsonb, as the finished version will have it */
    uint8 backboneDigest[IA3_DIGEST_LEN];
    bytea *state;
    double losses[IA3_LOSS_POINTS]; /* means over equal shares of all steps, NaN where there is none yet */
    double seconds;                 /* trained so far */
} Ia3Checkpoint;

/*
 * One pre-training of a task at a time: two would save over each other's checkpoints. Until Ia3CheckpointUnlock or
 * the end of the session, across transactions. ERROR 55006 if another session has the lock.
 */
extern LOCKTAG Ia3CheckpointLock(const char *task);
extern void Ia3CheckpointUnlock(const LOCKTAG *tag);

/* The caller's checkpoint of a task, in the current memory context; false when there is none. */
extern bool Ia3CheckpointLoad(const char *task, Ia3Checkpoint *checkpoint);

/*
 * Saves it in place of an earlier one, making the task if it is new (the caller owns it, with these templates).
 * ERROR as for Ia3VersionsCheckOwner.
 */
extern void Ia3CheckpointSave(const char *task, const char *backbone, const Ia3Strings *templates,
                              const Ia3Checkpoint *checkpoint);

extern void Ia3CheckpointDelete(const char *task);

/* The names of the members in which two recipes differ, joined; NULL when the same training is meant. */
extern char *Ia3CheckpointDifference(Datum recipe, Datum other);

/* The seed of a recipe. */
extern int64 Ia3CheckpointSeed(const Ia3Checkpoint *checkpoint);

/* The metrics of a training whose last request gave `last`: `steps`, `seconds` and `loss_curve` are the whole's. */
extern Datum Ia3CheckpointMetrics(Datum last, int steps, const Ia3Checkpoint *checkpoint);

#endif
