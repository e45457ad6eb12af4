/*
 * verbalizers.c
 *     Several texts for one label, of which each access to an example draws one.
 */
#include "verbalizers.h"

#include <stdlib.h>

#include "common/protocol.h"
#include "engine/base/alloc.h"
#include "engine/base/rng.h"

ia3_choices *
ia3_verbalizers_draw(const ia3_verbalizers *v, const ia3_choices *choices, uint64_t seed, uint64_t access)
{
    const int branches = choices->given ? 2 : 1;
    const int32_t **ids = ia3_alloc_array((size_t) (v->n * branches), sizeof *ids);
    int *len = ia3_alloc_array((size_t) (v->n * branches), sizeof *len);
    for (int label = 0; label < v->n; label++) {
        uint32_t several = (uint32_t) (v->first[label + 1] - v->first[label]);
        int choice = v->first[label] + (int) ia3_draw(seed, IA3_STREAM_VERBALIZER,
                                                      access * IA3_MAX_CHOICES + (uint64_t) label, several);
        for (int b = 0; b < branches; b++) {
            ids[label * branches + b] = choices->ids[choice * branches + b];
            len[label * branches + b] = choices->len[choice * branches + b];
        }
    }
    int bad_a, bad_b;
    ia3_error err = {0};
    /* This cannot fail, because the choices differ from each other and none is empty. */
    ia3_choices *drawn =
        ia3_choices_create(ids, len, v->n * branches, choices->row_token[0], &bad_a, &bad_b, &err);
    if (choices->given)
        (void) ia3_choices_contrast(drawn);
    free(ids);
    free(len);
    return drawn;
}
