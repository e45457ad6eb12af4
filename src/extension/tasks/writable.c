/*
 * writable.c
 *     Whether a function may write to the database, asked before it has cost any time.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "tcop/utility.h"

#include "writable.h"

void
Ia3CheckWritable(const char *function)
{
    if (RecoveryInProgress())
        ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
                        errmsg("cannot execute %s during recovery", function),
                        errhint("Execute it on the primary server. Replication brings the result here.")));
    PreventCommandIfReadOnly(function);
    PreventCommandIfParallelMode(function);
}
