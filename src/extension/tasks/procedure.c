/*
 * procedure.c
 *     What procedures that commit have in common.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/pquery.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"

#include "procedure.h"

bool
Ia3ProcedureIsAtomic(FunctionCallInfo fcinfo)
{
    return fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
           castNode(CallContext, fcinfo->context)->atomic || IsSubTransaction();
}

void
Ia3ProcedureCheck(FunctionCallInfo fcinfo, const char *name, const char *hint)
{
    if (IsSubTransaction())
        ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                        errmsg("%s cannot run inside a subtransaction", name),
                        errdetail("A savepoint begins one, and so does a block with an EXCEPTION clause."),
                        errhint("%s", hint)));
    if (!Ia3ProcedureIsAtomic(fcinfo))
        return;
    if (IsTransactionBlock())
        ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                        errmsg("%s cannot run inside a transaction block", name), errhint("%s", hint)));
    ereport(ERROR,
            (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION), errmsg("%s cannot be executed from a function", name),
             errdetail("Neither a function nor a procedure with SECURITY DEFINER or SET can commit."),
             errhint("%s", hint)));
}

void
Ia3ProcedureBegin(Ia3Procedure *p, FunctionCallInfo fcinfo, const char *name)
{
    p->name = name;
    p->atomic = Ia3ProcedureIsAtomic(fcinfo);
    p->user = GetUserId();
    p->caller = CurrentMemoryContext;
    /* the portal outlives the transactions that the procedure commits */
    p->context = AllocSetContextCreate(PortalContext, "ia3 procedure", ALLOCSET_DEFAULT_SIZES);
    if (SPI_connect_ext(p->atomic ? 0 : SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    MemoryContextSwitchTo(p->context);
}

void
Ia3ProcedureCommit(const Ia3Procedure *p)
{
    if (p->atomic)
        return;
    SPI_commit();
    if (GetUserId() != p->user)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("the current role changed when %s committed", p->name),
                        errhint("Use SET ROLE instead of SET LOCAL ROLE, which lasts only until a commit.")));
    InvalidateCatalogSnapshotConditionally();
}

void
Ia3ProcedureResume(const Ia3Procedure *p)
{
    /* queries of ours that use the caller's snapshot need one in this transaction, too */
    if (!p->atomic)
        EnsurePortalSnapshotExists();
}

void
Ia3ProcedureEnd(Ia3Procedure *p)
{
    SPI_finish();
    MemoryContextSwitchTo(p->caller);
    MemoryContextDelete(p->context);
}
