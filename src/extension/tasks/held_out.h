/*
 * held_out.h
 *     How the choices of labelled rows were scored by versions that had not seen the rows: what a calibrated version is
 *     calibrated with (ia3.adapter_scores).
 */
#ifndef IA3_HELD_OUT_H
#define IA3_HELD_OUT_H

#include "task.h"

typedef struct Ia3HeldOutRow {
    int fold;       /* from 0 */
    int label;      /* position of the row's label among its choices, from 0 */
    int n;          /* choices; more than `label` */
    double *scores; /* [n] finite, as in Ia3ScoreResult, not divided by a temperature */
} Ia3HeldOutRow;

typedef struct Ia3HeldOut {
    int n;               /* at least 1 */
    Ia3HeldOutRow *rows; /* in the order in which the query returned them */
} Ia3HeldOut;

/* Who asks for the rows. */
typedef enum Ia3HeldOutReader {
    IA3_HELD_OUT_CALLER, /* row security applies: only an owner of the task sees them */
    IA3_HELD_OUT_TASK    /* for what may be computed from them for everybody who may predict with the task */
} Ia3HeldOutReader;

/*
 * The rows that this version is calibrated with, in the current memory context, under the snapshot of the calling
 * statement; NULL if there are none, or if the caller does not see them. ERROR XX001 for rows that no function has
 * stored.
 */
extern Ia3HeldOut *Ia3HeldOutRead(const Ia3Task *task, Ia3HeldOutReader reader);

/* Stores them for a version that exists. The caller has connected to SPI and is the owner of the tables. */
extern void Ia3HeldOutInsert(const Ia3HeldOut *heldOut, const char *task, int version);

/* ERROR 55000: there are no such scores, either because the version is not calibrated, or because its copy lacks them. */
extern void Ia3HeldOutRaiseMissing(const Ia3Task *task, const char *detail, const char *hint)
    pg_attribute_noreturn();

#endif
