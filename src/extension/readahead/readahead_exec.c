/*
 * readahead_exec.c
 *     Executing the read-ahead node.
 *
 * A batch goes through three steps. First, its rows are read from the child and stored, and the arguments of the
 * calls that will be made for them are evaluated and sent to the engine. Second, the answers are collected into the
 * result cache. Third, the rows are filtered, projected and returned, while the functions, called by this node or by
 * those above it, find their answers. If the consumer reads everything, the next batch is read and sent before the
 * answers of the current one are awaited, so the engine is never idle.
 *
 * A consumer that may stop early gets batches of 1, 2, 4, ... rows, so at most twice as many rows are predicted as it
 * reads. A consumer with a known limit gets exactly as many rows as the limit says.
 *
 * A cursor may turn around at any row. The child, which has been read further, then goes back to that row, and batches
 * are read in the other direction. This node runs backward if its child can.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "readahead_exec.h"
#include "extension/guc.h"
#include "readahead_explain.h"
#include "readahead_functions.h"
#include "readahead_position.h"
#include "readahead_run.h"
#include "readahead_sites.h"

/* A batch ends early when its stored rows and evaluated arguments become longer than this. */
#define MAX_BATCH_BYTES (4 * 1024 * 1024)

/* Number of full batches whose answers are kept, for repeated texts and joins that check a condition twice. */
#define CACHED_BATCHES 4

static Node *create_state(CustomScan *scan);
static void begin_scan(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *exec(CustomScanState *node);
static void end_scan(CustomScanState *node);
static void re_scan(CustomScanState *node);

const CustomScanMethods Ia3ReadAheadScanMethods = {
    .CustomName = IA3_READAHEAD_NAME,
    .CreateCustomScanState = create_state,
};

static const CustomExecMethods execMethods = {
    .CustomName = IA3_READAHEAD_NAME,
    .BeginCustomScan = begin_scan,
    .ExecCustomScan = exec,
    .EndCustomScan = end_scan,
    .ReScanCustomScan = re_scan,
    .EstimateDSMCustomScan = Ia3ReadAheadEstimateDSM,
    .InitializeDSMCustomScan = Ia3ReadAheadInitializeDSM,
    .ReInitializeDSMCustomScan = Ia3ReadAheadReInitializeDSM,
    .InitializeWorkerCustomScan = Ia3ReadAheadInitializeWorker,
    .ShutdownCustomScan = Ia3ReadAheadShutdown,
    .ExplainCustomScan = Ia3ReadAheadExplain,
};

static Node *
create_state(CustomScan *scan)
{
    Ia3ReadAheadState *state = palloc0(sizeof(Ia3ReadAheadState));

    NodeSetTag(state, T_CustomScanState);
    state->css.methods = &execMethods;
    state->plan = Ia3ReadAheadPlanGet(scan);
    return (Node *) state;
}

/*
 * Begin
 */

/*
 * False if the value that it returns is kept elsewhere: in the stored row, in the plan, or where a parameter was set.
 */
static bool
makes_new_value(Expr *expr)
{
    while (IsA(expr, RelabelType))
        expr = ((RelabelType *) expr)->arg;
    return !IsA(expr, Var) && !IsA(expr, Const) && !IsA(expr, Param);
}

static void
init_sites(Ia3ReadAheadState *state, CustomScan *scan)
{
    PlanState *ps = &state->css.ss.ps;

    state->sites = palloc0(sizeof(Ia3Site) * state->plan.nSites);
    for (int i = 0; i < state->plan.nSites; i++) {
        List *site = list_nth(scan->custom_exprs, i);
        FuncExpr *call = linitial(site);
        List *guards = list_copy_tail(site, 1);
        int options = Ia3FunctionOptions(call->funcid);
        List *args = list_truncate(list_copy(call->args), list_length(call->args) - options);
        int nArgs = list_length(args);

        state->sites[i].form = nArgs <= IA3_MAX_CALL_ARGS ? Ia3FunctionForm(call->funcid) : IA3_CALL_NONE;
        for (int k = 0; k < nArgs && nArgs <= IA3_MAX_CALL_ARGS; k++)
            state->sites[i].isNewValue[k] =
                makes_new_value(list_nth(args, k)) && exprType(list_nth(args, k)) != INT4OID;
        state->sites[i].nullChoices = options > 0;
        state->sites[i].nested = Ia3ContainsCall((Node *) call->args) || Ia3ContainsCall((Node *) guards);
        state->sites[i].guards = ExecInitExprList(guards, ps);
        state->sites[i].args = ExecInitExprList(args, ps);
    }
    if (state->plan.hasLimit) {
        state->limitCount = ExecInitExpr(list_nth(scan->custom_exprs, state->plan.nSites), ps);
        state->limitOffset = ExecInitExpr(list_nth(scan->custom_exprs, state->plan.nSites + 1), ps);
    }
}

static void
begin_scan(CustomScanState *node, EState *estate, int eflags)
{
    Ia3ReadAheadState *state = (Ia3ReadAheadState *) node;
    CustomScan *scan = (CustomScan *) node->ss.ps.plan;

    outerPlanState(node) = ExecInitNode(outerPlan(scan), estate, eflags & ~EXEC_FLAG_MARK);
    init_sites(state, scan);
    if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
        return;
    /* the plan may be older than the setting */
    state->enabled = Ia3EnableBatching;
    state->capacity = state->enabled ? Ia3BatchRows : 1;
    state->rowSlot =
        ExecInitExtraTupleSlot(estate, ExecGetResultType(outerPlanState(node)), &TTSOpsMinimalTuple);
    state->positionScan = Ia3PositionScan(outerPlanState(node));
    if (state->positionScan) /* this is where WHERE CURRENT OF looks for it */
        node->ss.ss_currentRelation = state->positionScan->ss_currentRelation;
    for (int i = 0; i < 2; i++) {
        state->batches[i].context =
            AllocSetContextCreate(CurrentMemoryContext, "ia3 batch", ALLOCSET_DEFAULT_SIZES);
        state->batches[i].rows = palloc(sizeof(MinimalTuple) * state->capacity);
        if (state->positionScan)
            state->batches[i].tids = palloc(sizeof(ItemPointerData) * state->capacity);
    }
    state->current = &state->batches[0];
    state->next = &state->batches[1];
    if (state->enabled)
        state->cache = Ia3CacheCreate(estate->es_snapshot, CACHED_BATCHES * state->capacity);
}

/*
 * Reading a batch
 */

/* Makes stored row `i` the scan tuple. The scan slot is virtual; its values point into the stored row. */
static void
load_row(Ia3ReadAheadState *state, Ia3Batch *batch, int i)
{
    TupleTableSlot *scan = state->css.ss.ss_ScanTupleSlot;
    int nColumns = scan->tts_tupleDescriptor->natts;

    ExecStoreMinimalTuple(batch->rows[i], state->rowSlot, false);
    slot_getallattrs(state->rowSlot);
    ExecClearTuple(scan);
    memcpy(scan->tts_values, state->rowSlot->tts_values, sizeof(Datum) * nColumns);
    memcpy(scan->tts_isnull, state->rowSlot->tts_isnull, sizeof(bool) * nColumns);
    ExecStoreVirtualTuple(scan);
    if (state->positionScan) {
        scan->tts_tid = batch->tids[i];
        scan->tts_tableOid = RelationGetRelid(state->css.ss.ss_currentRelation);
    }
    state->css.ss.ps.ps_ExprContext->ecxt_scantuple = scan;
}

/*
 * Evaluates the limit above us, if there is one, and passes it on to a sort below, which Limit itself cannot reach
 * through us. As in Limit, the sort is told at every rescan, before it is rescanned, and also when there is no limit
 * any more.
 */
static void
evaluate_limit(Ia3ReadAheadState *state)
{
    ExprContext *context = state->css.ss.ps.ps_ExprContext;
    bool countIsNull, offsetIsNull;
    int64 count, offset;

    state->bound = -1;
    if (!state->plan.hasLimit)
        return;
    count = DatumGetInt64(ExecEvalExprSwitchContext(state->limitCount, context, &countIsNull));
    offset = DatumGetInt64(ExecEvalExprSwitchContext(state->limitOffset, context, &offsetIsNull));
    if (offsetIsNull)
        offset = 0;
    /* errors for negative numbers are left to Limit */
    if (!countIsNull && count >= 0 && offset >= 0 && count <= PG_INT64_MAX - offset)
        state->bound = count + offset;
    ExecSetTupleBound(state->bound, outerPlanState(state));
}

/* Before the first row, everything is as if the scan had come there backward. */
static void
start_scan(Ia3ReadAheadState *state)
{
    state->started = true;
    state->backward = state->childDone = state->ended = true;
    state->position = 0;
    state->size = 1;
    evaluate_limit(state);
}

/* Evaluates the conditions of a call for the scan tuple. */
static bool
will_be_called(const Ia3Site *site, ExprContext *context)
{
    ListCell *lc;

    foreach (lc, site->guards) {
        bool isNull;
        Datum value = ExecEvalExprSwitchContext(lfirst(lc), context, &isNull);

        if (isNull || !DatumGetBool(value))
            return false;
    }
    return true;
}

/*
 * Adds the call of a site for the scan tuple, if it will be made and its arguments are not NULL; returns the number
 * of bytes to be sent for it. The arguments stay in the batch's context. Intermediate values, such as a document of
 * which only some words are used, do not.
 */
static Size
add_call(Ia3ReadAheadState *state, Ia3Batch *batch, Ia3Asking *asking, const Ia3Site *site)
{
    ExprContext *context = state->css.ss.ps.ps_ExprContext;
    MemoryContext old;
    Ia3Call call = {.form = site->form};
    ListCell *lc;
    Size bytes = 0;
    bool isNull = false;

    if (site->form == IA3_CALL_NONE || !will_be_called(site, context))
        return 0;
    old = MemoryContextSwitchTo(batch->context);
    foreach (lc, site->args) {
        Datum value = ExecEvalExprSwitchContext(lfirst(lc), context, &isNull);

        if (isNull && site->nullChoices && call.nArgs == 2) {
            isNull = false;
            break;
        }
        if (isNull && site->form == IA3_CALL_ZERO_SHOT && call.nArgs >= 2) {
            isNull = false;
            call.args[call.nArgs++] = Ia3NoWording();
            continue;
        }
        if (isNull)
            break;
        call.args[call.nArgs] = site->isNewValue[call.nArgs] ? datumCopy(value, false, -1) : value;
        call.nArgs++;
    }
    if (!isNull)
        bytes = Ia3AskingAdd(asking, &call);
    MemoryContextSwitchTo(old);
    return bytes;
}

/* The number of rows to read next. */
static int64
rows_wanted(const Ia3ReadAheadState *state)
{
    bool mayStop = state->plan.mayStop || Ia3RunMayStop();
    int64 rows = mayStop ? state->size : state->capacity;

    if (state->plan.careful && (mayStop || (state->plan.uncertain && state->position == 0)))
        rows = 1;
    if (state->bound >= 0 && !state->backward)
        rows = Min(rows, state->bound - state->position);
    return Max(rows, 1); /* a consumer that reads beyond its limit gets the remaining rows one by one */
}

static void
clear_slots(Ia3ReadAheadState *state)
{
    ExecClearTuple(state->css.ss.ss_ScanTupleSlot);
    if (state->rowSlot)
        ExecClearTuple(state->rowSlot);
}

static void
reset_batch(Ia3ReadAheadState *state, Ia3Batch *batch)
{
    if (batch->asking)
        Ia3AskingDrop(batch->asking);
    batch->asking = NULL;
    batch->nRows = batch->nextRow = 0;
    MemoryContextReset(batch->context);
}

/* Reads the child's next row in the current direction; must not be called when it is done. */
static TupleTableSlot *
read_child(Ia3ReadAheadState *state)
{
    TupleTableSlot *slot = ExecProcNode(outerPlanState(state));

    state->position += state->backward ? -1 : 1;
    state->childDone = TupIsNull(slot);
    return slot;
}

/* Reads rows into the batch and evaluates the calls that do not depend on other answers. */
static void
read_batch(Ia3ReadAheadState *state, Ia3Batch *batch)
{
    int64 want;
    Size bytes = 0;

    clear_slots(state); /* they may point into this batch */
    reset_batch(state, batch);
    want = rows_wanted(state);
    batch->number = ++state->nBatches;
    if (state->enabled && Ia3CacheBeginBatch(state->cache, batch->number, batch->number - 1)) {
        MemoryContext old = MemoryContextSwitchTo(batch->context);

        batch->asking = Ia3AskingCreate(state->cache, &state->counts);
        MemoryContextSwitchTo(old);
    }
    while (batch->nRows < want && bytes < MAX_BATCH_BYTES) {
        TupleTableSlot *slot = read_child(state);
        MemoryContext old;

        if (TupIsNull(slot))
            break;
        old = MemoryContextSwitchTo(batch->context);
        batch->rows[batch->nRows] = ExecCopySlotMinimalTuple(slot);
        MemoryContextSwitchTo(old);
        if (state->positionScan)
            batch->tids[batch->nRows] = Ia3PositionTid(state->positionScan);
        bytes += batch->rows[batch->nRows]->t_len;
        if (batch->asking) {
            ResetExprContext(state->css.ss.ps.ps_ExprContext);
            load_row(state, batch, batch->nRows);
            for (int i = 0; i < state->plan.nSites; i++)
                if (!state->sites[i].nested)
                    bytes += add_call(state, batch, batch->asking, &state->sites[i]);
        }
        batch->nRows++;
    }
    state->size = Min(state->size * 2, state->capacity);
}

static void
send_batch(Ia3Batch *batch, bool ahead)
{
    if (batch->asking)
        Ia3AskingSend(batch->asking, ahead);
}

/* Predicts the calls of one site for all rows of a batch, and waits for the answers. */
static void
ask_nested(Ia3ReadAheadState *state, Ia3Batch *batch, const Ia3Site *site)
{
    MemoryContext old = MemoryContextSwitchTo(batch->context);
    Ia3Asking *asking = Ia3AskingCreate(state->cache, &state->counts);

    MemoryContextSwitchTo(old);
    for (int i = 0; i < batch->nRows; i++) {
        ResetExprContext(state->css.ss.ps.ps_ExprContext);
        load_row(state, batch, i);
        add_call(state, batch, asking, site);
    }
    Ia3AskingSend(asking, false);
    Ia3AskingCollect(asking);
}

/* Waits for the answers of a batch, then predicts the calls that depend on them. */
static void
collect_batch(Ia3ReadAheadState *state, Ia3Batch *batch)
{
    if (batch->asking == NULL)
        return;
    Ia3AskingCollect(batch->asking);
    batch->asking = NULL;
    for (int i = 0; i < state->plan.nSites; i++)
        if (state->sites[i].nested && Ia3CacheBeginBatch(state->cache, state->nBatches, batch->number))
            ask_nested(state, batch, &state->sites[i]);
    Ia3ReadAheadPublish(state);
}

/*
 * Whether to read another batch before waiting for the current one. This does not happen if the consumer may stop,
 * nor before the first answers have arrived: until then the engine may lack the adapters, and would say so twice.
 */
static bool
may_overlap(const Ia3ReadAheadState *state)
{
    return state->enabled && !state->plan.mayStop && !Ia3RunMayStop() && state->collected &&
           !state->childDone && (state->backward || state->bound < 0 || state->position < state->bound);
}

/* Makes the next batch the current one; false at the end. */
static bool
advance_batch(Ia3ReadAheadState *state)
{
    Ia3Batch *done = state->current;
    bool overlap;

    if (state->next->nRows > 0) {
        state->current = state->next;
        state->next = done;
        clear_slots(state);
        reset_batch(state, done);
        overlap = may_overlap(state);
    } else if (state->childDone) {
        return false;
    } else {
        read_batch(state, state->current);
        overlap = may_overlap(state);
        send_batch(state->current, overlap);
    }
    if (overlap) {
        read_batch(state, state->next);
        send_batch(state->next, true);
    }
    collect_batch(state, state->current);
    state->collected = true;
    return state->current->nRows > 0;
}

/* Forgets what has been read and not returned, and has the child go back to the row that was returned last. */
static void
turn_around(Ia3ReadAheadState *state)
{
    int64 steps = 0;

    if (!state->ended)
        steps = state->current->nRows - state->current->nextRow + state->next->nRows + state->childDone;
    clear_slots(state);
    for (int i = 0; i < 2; i++)
        reset_batch(state, &state->batches[i]);
    state->backward = !state->backward;
    state->childDone = state->ended = false;
    state->size = 1;
    for (; steps > 0; steps--) {
        CHECK_FOR_INTERRUPTS();
        read_child(state);
    }
}

static TupleTableSlot *
exec(CustomScanState *node)
{
    Ia3ReadAheadState *state = (Ia3ReadAheadState *) node;
    PlanState *ps = &node->ss.ps;
    ExprContext *context = ps->ps_ExprContext;

    if (!state->started)
        start_scan(state);
    if (ScanDirectionIsBackward(ps->state->es_direction) != state->backward)
        turn_around(state);
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        ResetExprContext(context);
        while (state->current->nextRow >= state->current->nRows)
            if (!advance_batch(state)) {
                clear_slots(state);
                state->ended = true;
                return NULL;
            }
        load_row(state, state->current, state->current->nextRow++);
        if (ps->qual && !ExecQual(ps->qual, context)) {
            InstrCountFiltered1(node, 1);
            continue;
        }
        return ps->ps_ProjInfo ? ExecProject(ps->ps_ProjInfo) : node->ss.ss_ScanTupleSlot;
    }
}

/*
 * Rescan and end
 */

static void
re_scan(CustomScanState *node)
{
    Ia3ReadAheadState *state = (Ia3ReadAheadState *) node;

    clear_slots(state);
    for (int i = 0; i < 2; i++)
        reset_batch(state, &state->batches[i]);
    start_scan(state);
    /* a child whose parameters have changed is rescanned when it is next read */
    if (outerPlanState(node)->chgParam == NULL)
        ExecReScan(outerPlanState(node));
}

static void
end_scan(CustomScanState *node)
{
    Ia3ReadAheadState *state = (Ia3ReadAheadState *) node;

    clear_slots(state);
    for (int i = 0; i < 2 && state->batches[i].context; i++) {
        reset_batch(state, &state->batches[i]);
        MemoryContextDelete(state->batches[i].context);
    }
    if (state->cache)
        Ia3CacheFree(state->cache);
    ExecEndNode(outerPlanState(node));
}
