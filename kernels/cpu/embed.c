/*
 * embed.c
 *     Embedding lookup: x[r] = table[ids[r]], converted to fp32.
 */
#include "act.h"
#include "cpu.h"

typedef struct embed_job {
    float *x;
    const int32_t *ids;
    size_t d;
    const void *table;
    bool bf16; /* the table is */
} embed_job;

static void
embed_work(void *arg, int slot, size_t begin, size_t end)
{
    const embed_job *j = arg;
    for (size_t r = begin; r < end; r++)
        ia3_load_act(j->x + r * j->d, j->table, (size_t) j->ids[r] * j->d, j->d, j->bf16);
}

void
ia3_cpu_embed(ia3_device *dev, float *x, const int32_t *ids, int rows, int d, const void *table)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (rows <= 0)
        return;
    embed_job j = {x, ids, (size_t) d, table, cpu->weights_bf16};
    ia3_parallel(cpu->pool, (size_t) rows, ia3_grain((size_t) d), embed_work, &j);
}
