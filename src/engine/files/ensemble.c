/*
 * ensemble.c
 *     Layouts and tensors' names of ensembles.
 */
#include "ensemble.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

#define PREFIX "member."

int
ia3_ensemble_member(const char *tensor, const char **rest)
{
    const char *digits = tensor + strlen(PREFIX);
    int member;

    *rest = tensor;
    if (strncmp(tensor, PREFIX, strlen(PREFIX)) != 0)
        return -1;

    size_t n = strspn(digits, "0123456789");

    if (n == 0 || n > 2 || (n == 2 && digits[0] == '0') || digits[n] != '.')
        return -1;
    member = atoi(digits);
    *rest = digits + n + 1;
    return member;
}

void
ia3_ensemble_layout(ia3_layout *l, const ia3_config *config)
{
    ia3_variant variant = l->variant;

    variant.members = 1;
    l->member = ia3_layout_create(config, variant);

    const ia3_layout *member = l->member;

    l->members = l->variant.members;
    l->n = l->capacity = l->members * member->n;
    l->n_values = l->rest = (size_t) l->members * member->n_values;
    l->entries = ia3_alloc_array((size_t) l->n, sizeof *l->entries);
    l->lead_rows = member->lead_rows;
    l->dec_lead_rows = member->dec_lead_rows;
    l->lead_keys = member->lead_keys;
    l->cost = member->cost;
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *of = &member->entries[i % member->n];
        ia3_layout_entry *e = &l->entries[i];

        *e = *of;
        e->offset += (size_t) (i / member->n) * member->n_values;
        snprintf(e->name, sizeof e->name, PREFIX "%u.%.80s", (unsigned) (i / member->n) % 100, of->name);
    }
}

ia3_safetensors *
ia3_ensemble_first(const ia3_safetensors *st, int *members)
{
    /* the tensors follow the structure in one block */
    ia3_safetensors *first = ia3_alloc(sizeof *first + (size_t) st->n * sizeof *st->tensors);
    int seen = 0, last = -1;

    *first = (ia3_safetensors){.tensors = (ia3_st_tensor *) (first + 1)};
    for (int i = 0; i < st->n; i++) {
        const char *rest;
        int member = ia3_ensemble_member(st->tensors[i].name, &rest);

        if (member > last)
            last = member;
        if (member <= 0) {
            first->tensors[first->n] = st->tensors[i];
            first->tensors[first->n++].name = rest;
        }
        seen += member == 0;
    }
    *members = last < 0 ? 1 : seen == 0 || last == 0 ? IA3_MAX_MEMBERS + 1 : last + 1;
    return first;
}
