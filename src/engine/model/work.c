/*
 * work.c
 *     Counts the rows of a batch, and what computing them takes.
 */
#include "work.h"

#include "engine/files/method.h"
#include "graph.h"

ia3_sizes
ia3_sizes_of(const ia3_config *c)
{
    double tables = c->bias_every_layer ? c->n_enc + c->n_dec : 2;
    return (ia3_sizes){.vocab_size = c->vocab_size,
                       .d_model = c->d_model,
                       .inner = c->inner,
                       .d_ff = c->d_ff,
                       .n_heads = c->n_heads,
                       .n_encoder = c->n_enc,
                       .n_decoder = c->n_dec,
                       .gated = c->gated,
                       .bias_values = tables * c->n_buckets * c->n_heads};
}

static ia3_pass_rows
work_of(const ia3_batch *b, int input)
{
    double n = b->enc_offsets.v[input + 1] - b->enc_offsets.v[input];
    ia3_pass_rows w = {.encoder_rows = n, .encoder_pairs = n * n};
    for (int r = b->dec_offsets.v[input]; r < b->dec_offsets.v[input + 1]; r++) {
        w.decoder_rows++;
        w.decoder_pairs += b->dec_depth.v[r] + 1;
    }
    w.head_rows = w.decoder_rows;
    if (input >= b->n_inputs - b->n_by_states) {
        w.state_rows = w.decoder_rows;
        w.state_pairs = w.decoder_rows * n;
    } else {
        w.keyed_rows = n;
        w.cross_pairs = w.decoder_rows * n;
    }
    return w;
}

static const ia3_method_cost *
cost_of(const ia3_batch *b, int input)
{
    return &b->layouts[b->slot_of_input.v[input]]->cost;
}

double
ia3_generation_flops(const ia3_model *m, const ia3_batch *b, int input, int steps, int lead, int idle)
{
    double n = b->enc_offsets.v[input + 1] - b->enc_offsets.v[input], t = steps, own = steps - idle;
    ia3_sizes sizes = ia3_sizes_of(&m->config);
    ia3_pass_rows rows = {.encoder_rows = n,
                          .encoder_pairs = n * n,
                          .keyed_rows = n,
                          .decoder_rows = t,
                          .head_rows = steps - lead,
                          .decoder_pairs = idle + own * (own + 1) / 2,
                          .cross_pairs = t * n};
    return ia3_forward_flops(&sizes, &rows, cost_of(b, input));
}

double
ia3_input_flops(const ia3_model *m, const ia3_batch *b, int input, ia3_pass_kind kind)
{
    const ia3_method_cost *cost = cost_of(b, input);
    ia3_sizes sizes = ia3_sizes_of(&m->config);
    ia3_pass_rows work = work_of(b, input);
    double flops = ia3_decoder_flops(&sizes, &work, cost);
    if (kind != IA3_PASS_MORE)
        flops += ia3_encoder_flops(&sizes, &work, cost);
    if (kind == IA3_PASS_TRAINING)
        flops += ia3_backward_flops(&sizes, &work, cost);
    return flops;
}
