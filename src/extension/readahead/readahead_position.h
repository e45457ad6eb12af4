/*
 * readahead_position.h
 *     Which row of a table a cursor is at, for UPDATE and DELETE ... WHERE CURRENT OF.
 *
 * PostgreSQL looks for the scan of the table in the cursor's plan, below nodes that return the row that their child is
 * at, and takes that scan's current row. A read-ahead node's child is ahead of the cursor, so the node remembers where
 * each row came from and lets PostgreSQL find itself instead of the scan.
 */
#ifndef IA3_READAHEAD_POSITION_H
#define IA3_READAHEAD_POSITION_H

#include "nodes/execnodes.h"
#include "nodes/plannodes.h"

/* The scan that PostgreSQL would find below this node, if it scans a table and is the only one that can be found. */
extern ScanState *Ia3PositionScan(PlanState *node);
/* Where the row that the scan has just returned is; an invalid pointer if it is nowhere. */
extern ItemPointerData Ia3PositionTid(ScanState *scan);
/* Whether PostgreSQL would look for the table among several scans below this node. */
extern bool Ia3HasSeveralPositions(Plan *plan);

#endif
