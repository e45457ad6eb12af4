/*
 * ia3_compat.h
 *     Differences between PostgreSQL 13 and 18, in one place. Each entry names the change it bridges.
 *
 * The rest of the extension is written for the newest spelling; this header gives it to older versions.
 */
#ifndef IA3_COMPAT_H
#define IA3_COMPAT_H

#include "postgres.h"

#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker_internals.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#if PG_VERSION_NUM >= 140000
#include "utils/wait_event.h" /* 14: moved out of pgstat.h */
#else
#include "pgstat.h"
#endif

#if PG_VERSION_NUM < 130000
#error "ia3 needs PostgreSQL 13 or later"
#endif

/* 14: DEFAULT_ROLE_* became ROLE_PG_* */
#if PG_VERSION_NUM < 140000
#define ROLE_PG_READ_ALL_STATS     DEFAULT_ROLE_READ_ALL_STATS
#define ROLE_PG_READ_SERVER_FILES  DEFAULT_ROLE_READ_SERVER_FILES
#define ROLE_PG_WRITE_SERVER_FILES DEFAULT_ROLE_WRITE_SERVER_FILES
#endif

/*
 * 14: a condition on ctid reads a range of blocks; before, every place where a block (of 8 kB) could have a row is listed. A format
 * with the table's name for the blocks from $1 up to but not including $2.
 */
#if PG_VERSION_NUM >= 140000
#define IA3_ROWS_IN_BLOCKS                                                                                   \
    "%1$s.ctid OPERATOR(pg_catalog.>=) pg_catalog.format('(%%s,0)', $1)::pg_catalog.tid"                     \
    " AND %1$s.ctid OPERATOR(pg_catalog.<) pg_catalog.format('(%%s,0)', $2)::pg_catalog.tid"
#else
#define IA3_ROWS_IN_BLOCKS                                                                                   \
    "%1$s.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT pg_catalog.format('(%%s,%%s)', b, "                  \
    "o)::pg_catalog.tid"                                                                                     \
    " FROM pg_catalog.generate_series($1, $2 OPERATOR(pg_catalog.-) 1) b, pg_catalog.generate_series(1, "    \
    "291) o))"
#endif

/* 14: raw_parser() parses more than statements */
#if PG_VERSION_NUM >= 140000
#define Ia3RawParser(text) raw_parser((text), RAW_PARSE_DEFAULT)
#else
#define Ia3RawParser(text) raw_parser(text)
#endif

/* 14: hooks of ProcessUtility() are told whether they may change the tree */
#if PG_VERSION_NUM >= 140000
#define IA3_UTILITY_PARAMETERS                                                                               \
    PlannedStmt *statement, const char *text, bool readOnlyTree, ProcessUtilityContext context,              \
        ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion
#define IA3_UTILITY_ARGUMENTS statement, text, readOnlyTree, context, params, environment, dest, completion
#else
#define IA3_UTILITY_PARAMETERS                                                                               \
    PlannedStmt *statement, const char *text, ProcessUtilityContext context, ParamListInfo params,           \
        QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion
#define IA3_UTILITY_ARGUMENTS statement, text, context, params, environment, dest, completion
#endif

/* 16: one function for the owners of everything */
#if PG_VERSION_NUM >= 160000
#define Ia3OwnsDatabase(database, role) object_ownercheck(DatabaseRelationId, (database), (role))
#else
#define Ia3OwnsDatabase(database, role) pg_database_ownercheck((database), (role))
#endif

/* 15: EmitWarningsOnPlaceholders() became MarkGUCPrefixReserved() and then also forbids the prefix */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/*
 * 15: InitMaterializedSRF(). It came to 15 in a minor release, so it is not used there either; the shim has
 * its own name and is what the extension calls everywhere.
 */
static inline void
Ia3InitMaterializedSRF(FunctionCallInfo fcinfo)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    MemoryContext old;
    TupleDesc tupdesc;

    if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("set-valued function called in context that cannot accept a set")));
    if (!(rsinfo->allowedModes & SFRM_Materialize))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("materialize mode required, but it is not allowed in this context")));

    /* In the caller's context: the executor frees the copy, but what lives as long as the query adds up. */
    if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    old = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
    rsinfo->returnMode = SFRM_Materialize;
    rsinfo->setResult =
        tuplestore_begin_heap((rsinfo->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
    rsinfo->setDesc = CreateTupleDescCopy(tupdesc);
    MemoryContextSwitchTo(old);
}

/*
 * 15: shared memory is requested in a hook; before, in _PG_init itself. `previous` gets the hook that `request` has to
 * call first, NULL for none.
 */
#if PG_VERSION_NUM >= 150000
#define Ia3HookShmemRequest(previous, request)                                                               \
    ((previous) = shmem_request_hook, shmem_request_hook = (request))
#else
typedef void (*shmem_request_hook_type)(void);
#define Ia3HookShmemRequest(previous, request) ((previous) = NULL, (request) ())
#endif

/*
 * 14: a conversion can be tried without raising an error. True if `source`, UTF-8 of `len` bytes, can be converted to
 * the server encoding; the result is then a string in `result`. 13 cannot tell: false.
 */
static inline bool
Ia3TryConversionFromUtf8(Oid conversion, const unsigned char *source, int len, unsigned char *result,
                         int size)
{
#if PG_VERSION_NUM >= 140000
    return pg_do_encoding_conversion_buf(conversion, PG_UTF8, GetDatabaseEncoding(), (unsigned char *) source,
                                         len, result, size, true) == len;
#else
    return false;
#endif
}

/*
 * 18: the list of background workers became doubly linked. Whether one of this library has been registered; in the
 * postmaster only.
 */
static inline bool
Ia3WorkerIsRegistered(const char *library)
{
#if PG_VERSION_NUM >= 180000
    dlist_iter at;

    dlist_foreach(at, &BackgroundWorkerList)
    {
        RegisteredBgWorker *worker = dlist_container(RegisteredBgWorker, rw_lnode, at.cur);
#else
    slist_iter at;

    slist_foreach(at, &BackgroundWorkerList)
    {
        RegisteredBgWorker *worker = slist_container(RegisteredBgWorker, rw_lnode, at.cur);
#endif

        if (strcmp(worker->rw_worker.bgw_library_name, library) == 0)
            return true;
    }
    return false;
}

/* 17: a wait event set belongs to a resource owner (NULL = none) and no longer to a memory context */
#if PG_VERSION_NUM >= 170000
#define Ia3CreateWaitEventSet(n) CreateWaitEventSet(NULL, (n))
#else
#define Ia3CreateWaitEventSet(n) CreateWaitEventSet(TopMemoryContext, (n))
#endif

/*
 * 17: extensions name their wait events. Only ever called lazily: the names live in shared memory, which
 * _PG_init does not have yet.
 */
static inline uint32
Ia3WaitEvent(uint32 *cached, const char *name)
{
#if PG_VERSION_NUM >= 170000
    if (*cached == 0)
        *cached = WaitEventExtensionNew(name);
    return *cached;
#else
    return PG_WAIT_EXTENSION;
#endif
}

/* 16: varlena macros moved out of postgres.h */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 17: makeJsonLexContextCstringLen() may get memory for the lexer; NULL: none */
#if PG_VERSION_NUM >= 170000
#define Ia3JsonLexer(json, len)                                                                              \
    makeJsonLexContextCstringLen(NULL, (json), (len), GetDatabaseEncoding(), false)
#else
#define Ia3JsonLexer(json, len) makeJsonLexContextCstringLen((json), (len), GetDatabaseEncoding(), false)
#endif

/* 17: the number of the current transaction in this backend moved within PGPROC */
#if PG_VERSION_NUM >= 170000
#define Ia3LocalTransactionId() (MyProc->vxid.lxid)
#else
#define Ia3LocalTransactionId() (MyProc->lxid)
#endif

/* 18: index_beginscan() may count what a scan does. A macro, so that only who scans an index needs its headers. */
#if PG_VERSION_NUM >= 180000
#define Ia3IndexBeginScan(table, index, snapshot) index_beginscan((table), (index), (snapshot), NULL, 0, 0)
#else
#define Ia3IndexBeginScan(table, index, snapshot) index_beginscan((table), (index), (snapshot), 0, 0)
#endif

/* 18: gone; its successor pg_noreturn stands at the beginning of a declaration, where 17 has nothing */
#if PG_VERSION_NUM >= 180000
#define pg_attribute_noreturn() __attribute__((noreturn))
#endif

/* 18: the module magic may carry a name and a version, shown by pg_get_loaded_modules() */
#if PG_VERSION_NUM >= 180000
#define IA3_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "ia3", .version = IA3_VERSION)
#else
#define IA3_MODULE_MAGIC PG_MODULE_MAGIC
#endif

#endif
