/*
 * pretrain_lock.h
 *     A lock on the name of a task that is being pre-trained.
 */
#ifndef IA3_PRETRAIN_LOCK_H
#define IA3_PRETRAIN_LOCK_H

#include "postgres.h"

#include "storage/lock.h"

/*
 * Locks the name for a pre-training run, since two runs would overwrite each other's checkpoints, or against one, since
 * a run would go on under the old name of a task. With `acrossTransactions` the lock is held until Ia3PretrainUnlock or
 * the end of the session, otherwise until the end of the transaction. ERROR 55006 if another session holds it.
 */
extern LOCKTAG Ia3PretrainLock(const char *task, bool acrossTransactions);
extern void Ia3PretrainUnlock(const LOCKTAG *tag);

#endif
