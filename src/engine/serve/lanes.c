/*
 * lanes.c
 *     Keeps requests in lanes by client, and fills batches from them in turn.
 */
#include "lanes.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

/* A request of at most so many rows, each of at most this share of a batch, has quick rows. */
#define QUICK_ROWS  8
#define QUICK_SHARE 16

void
ia3_lanes_free(ia3_lanes *l)
{
    free(l->lanes);
}

static ia3_lane *
lane_of(ia3_lanes *l, uint64_t client)
{
    for (int i = 0; i < l->n; i++)
        if (l->lanes[i].client == client)
            return &l->lanes[i];
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->lanes = ia3_realloc(l->lanes, (size_t) l->cap * sizeof *l->lanes);
    }
    ia3_lane *lane = &l->lanes[l->n++];
    *lane = (ia3_lane){.client = client};
    return lane;
}

void
ia3_lanes_add(ia3_lanes *l, ia3_request *r, uint32_t more)
{
    if (!r->in_lane) {
        ia3_lane *lane = lane_of(l, r->client);
        r->lane_next = NULL;
        *(lane->last ? &lane->last->lane_next : &lane->first) = r;
        lane->last = r;
        r->in_lane = true;
    }
    l->n_waiting += more;
}

/* Removes r from its lane; prev is the request before it, or NULL. */
static void
remove_request(ia3_lane *lane, ia3_request *prev, ia3_request *r)
{
    *(prev ? &prev->lane_next : &lane->first) = r->lane_next;
    if (lane->last == r)
        lane->last = prev;
    r->lane_next = NULL;
    r->in_lane = false;
}

/* The next ready row of a lane, the request that it belongs to, and the request before that. */
static ia3_row *
peek(const ia3_lane *lane, ia3_request **owner, ia3_request **before)
{
    *before = NULL;
    for (ia3_request *r = lane->first; r; *before = r, r = r->lane_next)
        if (r->n_taken < r->n_ready) {
            *owner = r;
            return &r->rows[r->n_taken];
        }
    return NULL;
}

/* In tokens of short inputs. */
static int64_t
cost_of(const ia3_lanes *l, const ia3_row *row)
{
    if (ia3_row_failed(row))
        return 0;
    const ia3_layout *layout = row->adapter ? row->adapter->layout : NULL;
    int n_ids = row->n_ids + (layout ? layout->lead_rows + layout->dec_lead_rows : 0);
    double attention = l->attention * n_ids * n_ids;
    const int passes = layout ? layout->members : 1;
    if (row->sampling) /* generated tokens count like tokens of the input */
        return n_ids + (int64_t) row->sampling->max_tokens + (int64_t) attention;
    ia3_score_row s = {.n_ids = n_ids, .ids = row->ids, .choices = row->set->choices};
    return passes * (ia3_score_row_tokens(&s) + (int64_t) attention);
}

static ia3_row_kind
kind_of(const ia3_lanes *l, const ia3_lane *lane, const ia3_request *r, const ia3_row *row, int64_t cost)
{
    if (row->sampling)
        return IA3_ROW_TEXT;
    if (cost > l->max_tokens)
        return IA3_ROW_LONG;
    bool few = r->n_rows <= QUICK_ROWS && lane->first == lane->last;
    return few && cost <= l->max_tokens / QUICK_SHARE ? IA3_ROW_QUICK : IA3_ROW_SHORT;
}

/* Takes one row from the lane. Returns false when the lane has no (further) row for this batch. */
static bool
take_turn(ia3_lanes *l, ia3_lane *lane, ia3_row_kind from, ia3_row_kind below, ia3_row_batch *batch,
          int64_t *tokens)
{
    ia3_request *r, *before;
    ia3_row *row = lane->done ? NULL : peek(lane, &r, &before);
    if (row == NULL)
        return false;
    int64_t cost = cost_of(l, row);
    ia3_row_kind kind = kind_of(l, lane, r, row, cost);
    bool allowed = kind >= from && kind < below;
    lane->no_room = allowed && batch->n > 0 && *tokens + cost > l->max_tokens;
    lane->done = !allowed || lane->no_room;
    if (lane->done)
        return false;
    *tokens += cost;
    batch->kind = batch->kind > kind ? batch->kind : kind;
    batch->rows[batch->n++] = row;
    l->n_waiting--;
    if (++r->n_taken == r->n_rows)
        remove_request(lane, before, r);
    return true;
}

/* Removes empty lanes; the cursors stay at the same lanes. */
static void
drop_empty(ia3_lanes *l)
{
    int kept = 0, cursor[IA3_ROW_ANY + 1] = {0};
    for (int i = 0; i < l->n; i++) {
        for (int k = 0; k <= IA3_ROW_ANY; k++)
            if (i == l->cursor[k])
                cursor[k] = kept;
        if (l->lanes[i].first)
            l->lanes[kept++] = l->lanes[i];
    }
    l->n = kept;
    for (int k = 0; k <= IA3_ROW_ANY; k++)
        l->cursor[k] = kept ? cursor[k] % kept : 0;
}

uint32_t
ia3_lanes_fill(ia3_lanes *l, ia3_row_kind from, ia3_row_kind below, ia3_row_batch *batch)
{
    batch->n = 0;
    batch->kind = IA3_ROW_QUICK;
    if (l->n_waiting == 0)
        return 0;
    for (int i = 0; i < l->n; i++)
        l->lanes[i].done = l->lanes[i].no_room = false;
    int64_t tokens = 0;
    int first = l->cursor[below];
    bool progress = true;
    while (progress && batch->n < IA3_MAX_BATCH_ROWS) {
        progress = false;
        for (int i = 0; i < l->n && batch->n < IA3_MAX_BATCH_ROWS; i++)
            progress |= take_turn(l, &l->lanes[(first + i) % l->n], from, below, batch, &tokens);
    }
    l->cursor[below] = l->n ? (first + 1) % l->n : 0;
    for (int i = 0; i < l->n; i++)
        if (l->lanes[(first + 1 + i) % l->n].no_room) {
            l->cursor[below] = (first + 1 + i) % l->n;
            break;
        }
    drop_empty(l);
    return (uint32_t) batch->n;
}

ia3_request *
ia3_lanes_take_cancelled(ia3_lanes *l)
{
    for (int i = 0; i < l->n; i++) {
        ia3_request *prev = NULL;
        for (ia3_request *r = l->lanes[i].first; r; prev = r, r = r->lane_next)
            if (atomic_load(&r->cancelled)) {
                l->n_waiting -= r->n_ready - r->n_taken;
                remove_request(&l->lanes[i], prev, r);
                drop_empty(l);
                return r;
            }
    }
    return NULL;
}
