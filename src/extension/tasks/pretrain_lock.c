/*
 * pretrain_lock.c
 *     A lock on the name of a task that is being pre-trained.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

#include "pretrain_lock.h"

/* Only advisory locks outlast a transaction. The fourth field is 3, which it never is for locks that users take. */
LOCKTAG
Ia3PretrainLock(const char *task, bool acrossTransactions)
{
    Oid relation = get_relname_relid("checkpoint", get_namespace_oid("ia3", false));
    LOCKTAG tag;

    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, relation, hash_bytes((const unsigned char *) task, strlen(task)),
                         3);
    if (LockAcquire(&tag, ExclusiveLock, acrossTransactions, true) == LOCKACQUIRE_NOT_AVAIL)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_IN_USE),
                 errmsg("ia3 task \"%s\" is being pre-trained by another session", task),
                 errhint("Wait until that run has ended; the view ia3_stat_progress_train shows it.")));
    return tag;
}

void
Ia3PretrainUnlock(const LOCKTAG *tag)
{
    LockRelease(tag, ExclusiveLock, true);
}
