/*
 * matmul.c
 *     Products with frozen weights:  y = a·Wᵀ  and  da = dy·W.
 *
 * The work is a grid of row chunks by panels, shared out statically. Bits do not depend on the chunks: see
 * primitive.h. Remainders below four rows are computed on a padded copy.
 */
#include <string.h>

#include "bf16.h"
#include "matrix.h"

/* Bytes of one element of the result. */
static size_t
out_size(const ia3_cpu *cpu, ia3_out out)
{
    return out == IA3_OUT_ACT ? cpu->act_size : sizeof(float);
}

/* A += result goes straight to y where it can and through scratch memory as a plain product elsewhere. */
static ia3_out
scratch_out(ia3_out out)
{
    return out == IA3_OUT_ADD_F32 ? IA3_OUT_F32 : out;
}

size_t
ia3_gemm_scratch(ia3_cpu *cpu, const ia3_pack *pack, ia3_out out, int rows)
{
    size_t pad = 0;
    for (int i = 0; i < pack->n_panels; i++) {
        ia3_shape *s = pack->panels[i].shape;
        if (i > 0 && s == pack->panels[i - 1].shape)
            continue;
        for (int b = 0; b < IA3_N_BLOCKS; b++) {
            if (ia3_block_rows[b] > rows && b + 1 < IA3_N_BLOCKS)
                continue;
            size_t direct = ia3_product_get(cpu, s, out, b)->scratchpad;
            size_t through = ia3_product_get(cpu, s, scratch_out(out), b)->scratchpad;
            pad = direct > pad ? direct : pad;
            pad = through > pad ? through : pad;
        }
    }
    int width = pack->panels[0].n; /* the widest */
    return ia3_align_up(pad) + ia3_align_up((size_t) IA3_MAX_BLOCK * (size_t) width * sizeof(float)) +
           ia3_align_up((size_t) IA3_MIN_BLOCK * (size_t) pack->k * cpu->act_size);
}

static void
copy_out(ia3_cpu *cpu, void *y, size_t ldy, const void *tile, int rows, int n, ia3_out out)
{
    for (int r = 0; r < rows; r++) {
        if (out == IA3_OUT_ADD_F32) {
            float *restrict to = (float *) y + (size_t) r * ldy;
            const float *restrict from = (const float *) tile + (size_t) r * (size_t) n;
            for (int j = 0; j < n; j++)
                to[j] += from[j];
        } else {
            size_t size = out_size(cpu, out);
            memcpy((char *) y + (size_t) r * ldy * size, (const char *) tile + (size_t) r * (size_t) n * size,
                   (size_t) n * size);
        }
    }
}

void
ia3_gemm_panel(ia3_cpu *cpu, const ia3_panel *panel, int slot, void *y, size_t ldy, const void *a, int rows,
               ia3_out out, void *scratch)
{
    const size_t k = (size_t) panel->shape->k, n = (size_t) panel->n;
    char *padded = scratch, *tile = padded + ia3_align_up(IA3_MIN_BLOCK * k * cpu->act_size);
    char *pad = tile + ia3_align_up(IA3_MAX_BLOCK * n * sizeof(float));
    bool dense = ldy == n;
    for (int r = 0, block = 0; r < rows;) {
        int left = rows - r;
        while (block + 1 < IA3_N_BLOCKS && ia3_block_rows[block] > left)
            block++;
        int m = ia3_block_rows[block] < left ? ia3_block_rows[block] : left;
        const char *src = (const char *) a + (size_t) r * k * cpu->act_size;
        char *dst = (char *) y + (size_t) r * ldy * out_size(cpu, out);
        if (m < ia3_block_rows[block]) {
            memcpy(padded, src, (size_t) m * k * cpu->act_size);
            memset(padded + (size_t) m * k * cpu->act_size, 0,
                   (IA3_MIN_BLOCK - (size_t) m) * k * cpu->act_size);
            src = padded;
        }
        bool direct = dense && src != padded;
        ia3_product *p = ia3_product_get(cpu, panel->shape, direct ? out : scratch_out(out), block);
        ia3_product_run(cpu, p, slot, panel, src, direct ? dst : tile, pad);
        if (!direct)
            copy_out(cpu, dst, ldy, tile, m, (int) n, out);
        r += m;
    }
}

typedef struct gemm_job {
    ia3_cpu *cpu;
    const ia3_pack *pack;
    char *y;
    const char *a;
    int rows, chunk, n_chunks;
    ia3_out out;
    char *scratch;
    size_t scratch_size;
} gemm_job;

/* Items are (panel, chunk), panel by panel, so that a panel stays in cache while rows pass by. */
static void
gemm_work(void *arg, int slot, size_t begin, size_t end)
{
    gemm_job *j = arg;
    const ia3_pack *pack = j->pack;
    for (size_t i = begin; i < end; i++) {
        const ia3_panel *panel = &pack->panels[i / (size_t) j->n_chunks];
        int first = (int) (i % (size_t) j->n_chunks) * j->chunk;
        int rows = j->rows - first < j->chunk ? j->rows - first : j->chunk;
        char *y = j->y + ((size_t) first * (size_t) pack->n + (size_t) panel->n0) * out_size(j->cpu, j->out);
        const char *a = j->a + (size_t) first * (size_t) pack->k * j->cpu->act_size;
        ia3_gemm_panel(j->cpu, panel, slot, y, (size_t) pack->n, a, rows, j->out,
                       j->scratch + (size_t) slot * j->scratch_size);
    }
}

/*
 * Rows per chunk such that the busiest thread has the least to do; a small block costs about two rows more
 * than its share, because the weights are read again.
 */
static int
choose_chunk(const ia3_cpu *cpu, const ia3_pack *pack, int rows)
{
    int best = IA3_MAX_BLOCK;
    size_t best_cost = SIZE_MAX;
    for (int b = 0; b < IA3_N_BLOCKS; b++) {
        int chunk = ia3_block_rows[b];
        size_t items = ((size_t) rows + (size_t) chunk - 1) / (size_t) chunk * (size_t) pack->n_panels;
        size_t per_thread = (items + (size_t) cpu->threads - 1) / (size_t) cpu->threads;
        size_t cost = per_thread * ((size_t) (chunk < rows ? chunk : rows) + 2);
        if (cost < best_cost) {
            best_cost = cost;
            best = chunk;
        }
    }
    return best;
}

void
ia3_gemm(ia3_cpu *cpu, const ia3_pack *pack, void *y, const void *a, int rows, ia3_out out)
{
    if (rows <= 0)
        return;
    size_t mark = ia3_cpu_arena_mark(&cpu->base);
    gemm_job j = {.cpu = cpu, .pack = pack, .y = y, .a = a, .rows = rows, .out = out};
    j.chunk = choose_chunk(cpu, pack, rows);
    j.n_chunks = (rows + j.chunk - 1) / j.chunk;
    j.scratch_size = ia3_gemm_scratch(cpu, pack, out, j.chunk);
    j.scratch = ia3_cpu_arena_alloc(&cpu->base, j.scratch_size * (size_t) cpu->threads);
    size_t items = (size_t) j.n_chunks * (size_t) pack->n_panels;
    /* a part worth waking a thread for has about half a million multiply-adds */
    size_t work = (size_t) j.chunk * (size_t) pack->k * (size_t) pack->panels[0].n;
    ia3_parallel(cpu->pool, items, work >= 500000 ? 1 : 1 + 500000 / (work + 1), gemm_work, &j);
    ia3_cpu_arena_release(&cpu->base, mark);
}

void
ia3_cpu_matmul(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out)
{
    const ia3_cpu_matrix *m = (ia3_cpu_matrix *) w;
    if (m && m->int8)
        ia3_int8_matmul((ia3_cpu *) dev, m->int8, y, a, rows, out);
    else
        ia3_gemm((ia3_cpu *) dev, &m->fwd, y, a, rows, out);
}

void
ia3_cpu_matmul_bwd(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out)
{
    ia3_gemm((ia3_cpu *) dev, &((ia3_cpu_matrix *) w)->bwd, da, dy, rows, out);
}
