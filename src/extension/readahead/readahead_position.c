/*
 * readahead_position.c
 *     Which row of a table a cursor is at; the counterpart of search_plan_tree and execCurrentOf (execCurrent.c).
 */
#include "postgres.h"

#include "access/relscan.h"

#include "readahead_position.h"
#include "extension/ia3_compat_planner.h"
#include "readahead_exec.h"

ScanState *
Ia3PositionScan(PlanState *node)
{
    ScanState *scan = (ScanState *) node;

    switch (nodeTag(node->plan)) {
    case T_SeqScan:
    case T_SampleScan:
    case T_IndexScan:
    case T_IndexOnlyScan:
    case T_BitmapHeapScan:
    case T_TidScan:
        return scan;
    case T_CustomScan:
        return ((CustomScan *) node->plan)->methods == &Ia3ReadAheadScanMethods && scan->ss_currentRelation
                   ? scan
                   : NULL;
    case T_Result:
    case T_Limit:
        return outerPlanState(node) ? Ia3PositionScan(outerPlanState(node)) : NULL;
    case T_SubqueryScan:
        return Ia3PositionScan(((SubqueryScanState *) node)->subplan);
    default:
        return Ia3IsTidRangeScan(node->plan) ? scan : NULL;
    }
}

ItemPointerData
Ia3PositionTid(ScanState *scan)
{
    ItemPointerData none;

    /* the slot of an index-only scan has no row of the table; a recheck of a changed row scans no index */
    if (IsA(scan, IndexOnlyScanState) && ((IndexOnlyScanState *) scan)->ioss_ScanDesc)
        return ((IndexOnlyScanState *) scan)->ioss_ScanDesc->xs_heaptid;
    if (!TupIsNull(scan->ss_ScanTupleSlot))
        return scan->ss_ScanTupleSlot->tts_tid;
    ItemPointerSetInvalid(&none);
    return none;
}

bool
Ia3HasSeveralPositions(Plan *plan)
{
    while (plan) {
        switch (nodeTag(plan)) {
        case T_Append:
            return true;
        case T_CustomScan:
        case T_Result:
        case T_Limit:
            plan = plan->lefttree;
            break;
        case T_SubqueryScan:
            plan = ((SubqueryScan *) plan)->subplan;
            break;
        default:
            return false;
        }
    }
    return false;
}
