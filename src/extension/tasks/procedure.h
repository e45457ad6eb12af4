/*
 * procedure.h
 *     What procedures that commit have in common. Those that train commit before the engine works, and hold neither a lock on
 *     a table nor a snapshot meanwhile.
 *
 *     Ia3ProcedureBegin    the memory context that survives the commits becomes the current one
 *     ...                  look-ups, reading the rows
 *     Ia3ProcedureCommit
 *     Ia3TrainRun          no table can be read
 *     Ia3ProcedureResume
 *     ...                  storing the result; then either Ia3ProcedureCommit again or
 *     Ia3ProcedureEnd
 */
#ifndef IA3_PROCEDURE_H
#define IA3_PROCEDURE_H

#include "fmgr.h"

typedef struct Ia3Procedure {
    const char *name; /* for messages */
    bool atomic;      /* it cannot commit, so Ia3ProcedureCommit and Ia3ProcedureResume do nothing */
    Oid user;         /* who called it */
    MemoryContext caller, context;
} Ia3Procedure;

/* Whether this call of a procedure cannot commit: in a transaction block, in a subtransaction, called by a function. */
extern bool Ia3ProcedureIsAtomic(FunctionCallInfo fcinfo);
/* ERROR 25001 if it cannot; `name` is in the message, `hint` says what to do. */
extern void Ia3ProcedureCheck(FunctionCallInfo fcinfo, const char *name, const char *hint);

/* Connects to SPI, and remembers the caller. */
extern void Ia3ProcedureBegin(Ia3Procedure *procedure, FunctionCallInfo fcinfo, const char *name);
/*
 * Commits. ERROR 55000 if that changes the current role, as after SET LOCAL ROLE: what has been read for one role must
 * not be stored for another.
 */
extern void Ia3ProcedureCommit(const Ia3Procedure *procedure);
/* Has a snapshot again. */
extern void Ia3ProcedureResume(const Ia3Procedure *procedure);
/* The caller's memory context is the current one again. */
extern void Ia3ProcedureEnd(Ia3Procedure *procedure);

#endif
