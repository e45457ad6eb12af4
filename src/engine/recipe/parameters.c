/*
 * parameters.c
 *     Memory and initial values of what is trained.
 */
#include "parameters.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/model/weights.h"
#include "mask.h"

static bool
is_same(const ia3_parameters *p)
{
    return p->trained == p->layout;
}

static const ia3_reparameterization *
reparameterization_of(const ia3_parameters *p)
{
    return p->layout->variant.method->reparameterization;
}

static const ia3_expansion *
expansion_of(const ia3_parameters *p)
{
    return p->layout->variant.method->expansion;
}

static void *
room(const ia3_parameters *p, size_t n)
{
    return p->m->dev->ops->alloc(p->m->dev, n * sizeof(float));
}

static bool
fail_memory(const ia3_parameters *p, ia3_error *err)
{
    const size_t mb = (p->trained->n_values * sizeof(float) >> 20) + 1;

    *err = (ia3_error){0};
    ia3_fail(err, IA3_E_MEMORY, "out of memory for the training state");
    if (!p->trained->weights)
        return false;
    ia3_fail_detail(
        err,
        "The method \"%s\" needs %zu MB: %zu MB for each of the weights, their gradients and their "
        "second moments, and about %zu MB for the copies that passes use.",
        p->layout->variant.method->name, 3 * mb + (size_t) (ia3_weights_estimate(p->m, true) >> 20), mb,
        (size_t) (ia3_weights_estimate(p->m, true) >> 20));
    return ia3_fail_hint(err, "Raise ia3.memory_limit, or use another method.");
}

/* Memory for what is trained, and for what is computed from it. */
static bool
allocate(ia3_parameters *p, ia3_error *err)
{
    const size_t n = p->trained->n_values, tensors = (size_t) p->trained->n + 1;
    const bool computed = reparameterization_of(p) != NULL;

    p->values = room(p, n);
    p->grads = room(p, n);
    p->second_moment = room(p, n);
    if (is_same(p)) {
        p->adapter = p->values;
        p->adapter_grads = p->grads;
    } else if (computed) {
        p->adapter = room(p, p->layout->n_values);
        p->adapter_grads = room(p, p->layout->n_values);
        p->scratch = room(p, reparameterization_of(p)->scratch(p->layout));
    }
    p->passed = expansion_of(p) ? room(p, p->layout->expanded->n_values) : p->adapter;
    p->passed_grads = expansion_of(p) ? room(p, p->layout->expanded->n_values) : p->adapter_grads;
    p->tensor_offsets = room(p, tensors);
    p->tensor_rows = room(p, tensors);
    p->tensor_slices = room(p, tensors);

    const bool has_adapter =
        p->layout->kept > 0 || (p->adapter && p->adapter_grads && p->passed && p->passed_grads);

    if (p->values && p->grads && p->second_moment && has_adapter && (!computed || p->scratch) &&
        p->tensor_offsets && p->tensor_rows && p->tensor_slices)
        return true;
    return fail_memory(p, err);
}

/* Tells Adafactor the shapes of the tensors. */
static void
describe_tensors(const ia3_parameters *p)
{
    const ia3_layout *l = p->trained;
    const size_t n = (size_t) l->n + 1, bytes = n * sizeof(int32_t);
    ia3_device *dev = p->m->dev;
    int32_t *offsets = ia3_alloc(bytes), *rows = ia3_alloc(bytes), *slices = ia3_alloc(bytes);

    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];

        offsets[i] = (int32_t) e->offset;
        rows[i] = e->rows > 1 && e->cols > 1 ? e->rows : 1; /* factors of one row or column are exact */
        slices[i] = e->slices;
    }
    offsets[l->n] = (int32_t) l->n_values;
    dev->ops->upload(dev, p->tensor_offsets, offsets, bytes);
    dev->ops->upload(dev, p->tensor_rows, rows, bytes);
    dev->ops->upload(dev, p->tensor_slices, slices, bytes);
    free(offsets);
    free(rows);
    free(slices);
}

/* Those of the checkpoint, and in their place those of an adapter. */
static bool
start_weights(const ia3_parameters *p, const float *init, float *values, ia3_error *err)
{
    const ia3_layout *l = p->layout;

    if (init && l->kept == 0) {
        memcpy(values, init, l->n_values * sizeof *values);
        return true;
    }
    if (p->m->checkpoint == NULL)
        return ia3_fail(err, IA3_E_INTERNAL, "the backbone's checkpoint is not open");
    if (!ia3_weights_read(p->m->checkpoint, p->trained, values, err))
        return false;
    for (size_t i = 0; init && i < l->kept; i++)
        values[ia3_kept_position(l, init, i)] = ia3_kept_value(l, init, i);
    return true;
}

/* The values to start with, in host memory [p->trained->n_values]. */
static bool
start(const ia3_parameters *p, uint64_t seed, const float *init, float *values, ia3_error *err)
{
    const ia3_layout *l = p->layout;
    const ia3_method *method = l->variant.method;
    const ia3_start s = {.seed = seed,
                         .dev = p->m->dev,
                         .config = &p->m->config,
                         .embedding = p->m->weights->embedding,
                         .model = p->m};

    if (method->reparameterization)
        return method->reparameterization->start(l, &s, init, values, err);
    if (p->trained->weights)
        return start_weights(p, init, values, err);
    for (int i = 0; i < l->n; i++)
        for (int k = 0; k < l->entries[i].len; k++) {
            const size_t at = l->entries[i].offset + (size_t) k;

            values[at] = init ? init[at] : l->entries[i].start;
        }
    return init || method->start == NULL || method->start(l, &s, values, err);
}

/* The weights that passes use while their masters are trained. */
static bool
create_weights(ia3_parameters *p, const float *values, ia3_error *err)
{
    const ia3_weight_source source = {.layout = p->trained, .values = values};

    p->weights = ia3_weights_create(p->m, &source, err);
    if (p->weights && ia3_weights_prepare_backward(p->m, p->weights, err))
        return true;
    return err->code == IA3_E_MEMORY ? fail_memory(p, err) : false;
}

/* Keeps the gradients of all weights but those at p->positions zero. */
static bool
set_mask(ia3_parameters *p, ia3_error *err)
{
    const size_t n = p->trained->n_values, words = n / 32 + 1;
    uint32_t *bits = ia3_mask_bits(p->positions, p->layout->kept, n);

    p->mask = p->mask ? p->mask : room(p, words);
    if (p->mask)
        p->m->dev->ops->upload(p->m->dev, p->mask, bits, words * sizeof *bits);
    free(bits);
    return p->mask || fail_memory(p, err);
}

/* The method's own part. `init` as in ia3_parameters_create, `values` is what is trained, in host memory. */
static bool
prepare(ia3_parameters *p, const float *init, const float *values, ia3_error *err)
{
    const ia3_layout *l = p->layout;

    if (expansion_of(p)) {
        p->prepared = expansion_of(p)->prepare(l);
        p->host = ia3_alloc_array(2 * l->n_values, sizeof *p->host);
        p->host_passed = ia3_alloc_array(l->expanded->n_values, sizeof *p->host_passed);
    }
    if (l->kept > 0)
        p->positions = ia3_alloc_array(l->kept, sizeof *p->positions);
    for (size_t i = 0; i < l->kept; i++)
        p->positions[i] = init ? ia3_kept_position(l, init, i) : i;
    if (l->kept > 0 && init && !set_mask(p, err))
        return false;
    return !p->trained->weights || create_weights(p, values, err);
}

const ia3_layout *
ia3_parameters_layout(const ia3_layout *adapter)
{
    return adapter->trained ? adapter->trained : adapter->kept > 0 ? adapter->expanded : adapter;
}

bool
ia3_parameters_create(ia3_parameters *p, ia3_model *m, const ia3_layout *layout, uint64_t seed,
                      const float *init, ia3_error *err)
{
    *p = (ia3_parameters){.m = m, .layout = layout, .trained = ia3_parameters_layout(layout)};

    const size_t n = p->trained->n_values;

    if (n > INT32_MAX) {
        ia3_fail(err, IA3_E_TOO_LONG, "the method \"%s\" cannot be trained on this backbone",
                 layout->variant.method->name);
        return ia3_fail_detail(err, "It would train %zu values, but the limit is %d.", n, INT32_MAX);
    }
    if (!allocate(p, err))
        return false;
    describe_tensors(p);
    m->dev->ops->zero(m->dev, p->second_moment, n * sizeof(float));

    float *values = ia3_alloc_array(n, sizeof *values);
    bool ok = start(p, seed, init, values, err) && prepare(p, init, values, err);

    if (ok) {
        m->dev->ops->upload(m->dev, p->values, values, n * sizeof *values);
        ia3_parameters_changed(p);
    }
    free(values);
    return ok;
}

void
ia3_parameters_free(ia3_parameters *p)
{
    void *own[] = {p->values, p->grads,          p->second_moment, p->scratch,
                   p->mask,   p->tensor_offsets, p->tensor_rows,   p->tensor_slices};
    void *adapter[] = {p->adapter, p->adapter_grads}, *passed[] = {p->passed, p->passed_grads};

    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (own[i])
            p->m->dev->ops->free(p->m->dev, own[i]);
    for (size_t i = 0; p->m && !is_same(p) && i < 2; i++)
        if (adapter[i])
            p->m->dev->ops->free(p->m->dev, adapter[i]);
    for (size_t i = 0; p->m && expansion_of(p) && i < 2; i++)
        if (passed[i])
            p->m->dev->ops->free(p->m->dev, passed[i]);
    if (p->prepared)
        expansion_of(p)->release(p->prepared);
    ia3_weights_free(p->m, p->weights);
    free(p->positions);
    free(p->host);
    free(p->host_passed);
}

static ia3_trained
trained_of(const ia3_parameters *p)
{
    return (ia3_trained){.dev = p->m->dev,
                         .layout = p->layout,
                         .values = p->values,
                         .grads = p->grads,
                         .adapter_values = p->adapter,
                         .adapter_grads = p->adapter_grads,
                         .scratch = p->scratch};
}

void
ia3_parameters_zero_grads(const ia3_parameters *p)
{
    ia3_device *dev = p->m->dev;

    dev->ops->zero(dev, p->grads, p->trained->n_values * sizeof(float));
    if (reparameterization_of(p))
        dev->ops->zero(dev, p->adapter_grads, p->layout->n_values * sizeof(float));
    if (expansion_of(p))
        dev->ops->zero(dev, p->passed_grads, p->layout->expanded->n_values * sizeof(float));
}

/* The gradients of what passes use become those of the adapter, on the host, which has the values since they were expanded. */
static void
expand_bwd(const ia3_parameters *p)
{
    const ia3_device_ops *ops = p->m->dev->ops;
    const size_t n = p->layout->n_values;
    float *grads = p->host + n;

    ops->download(p->m->dev, p->host_passed, p->passed_grads,
                  p->layout->expanded->n_values * sizeof *p->host_passed);
    memset(grads, 0, n * sizeof *grads);
    expansion_of(p)->expand_bwd(p->layout, p->prepared, p->host, p->host_passed, grads);
    ops->upload(p->m->dev, p->grads, grads, n * sizeof *grads);
}

static void
expand(const ia3_parameters *p)
{
    const ia3_device_ops *ops = p->m->dev->ops;

    ops->download(p->m->dev, p->host, p->values, p->layout->n_values * sizeof *p->host);
    expansion_of(p)->expand(p->layout, p->prepared, p->host, p->host_passed);
    ops->upload(p->m->dev, p->passed, p->host_passed, p->layout->expanded->n_values * sizeof *p->host_passed);
}

void
ia3_parameters_finish_grads(const ia3_parameters *p)
{
    const ia3_trained t = trained_of(p);

    if (reparameterization_of(p))
        reparameterization_of(p)->compute_bwd(&t);
    if (p->mask)
        p->m->dev->ops->mask_grad(p->m->dev, p->grads, p->mask, p->trained->n_values);
}

void
ia3_parameters_finish_adapter_grads(const ia3_parameters *p)
{
    if (expansion_of(p))
        expand_bwd(p);
}

/* The copies of the weights follow in the next pass, because that can run out of memory. */
void
ia3_parameters_changed(ia3_parameters *p)
{
    const ia3_trained t = trained_of(p);

    if (reparameterization_of(p))
        reparameterization_of(p)->compute(&t);
    if (expansion_of(p))
        expand(p);
    p->weights_stale = p->weights != NULL;
}

void
ia3_parameters_prepare_pass(ia3_parameters *p)
{
    if (!p->weights_stale)
        return;
    ia3_weights_update(p->m, p->weights, p->trained, p->values);
    p->weights_stale = false;
}

/* Numbers at the adapter's positions, of an array on the device [p->trained->n_values]. */
static void
gather(const ia3_parameters *p, const float *from, float *to)
{
    const size_t n = p->trained->n_values;
    float *all = ia3_alloc_array(n, sizeof *all);

    p->m->dev->ops->download(p->m->dev, all, from, n * sizeof *all);
    for (size_t i = 0; i < p->layout->kept; i++)
        to[i] = all[p->positions[i]];
    free(all);
}

void
ia3_parameters_read(const ia3_parameters *p, float *values)
{
    const size_t kept = p->layout->kept;

    if (kept == 0) {
        p->m->dev->ops->download(p->m->dev, values, p->adapter, p->layout->n_values * sizeof *values);
        return;
    }
    for (size_t i = 0; i < kept; i++)
        ia3_keep_position(p->layout, values, i, p->positions[i]);
    gather(p, p->values, values + 2 * kept);
    for (int i = 3; i < p->layout->n; i++)
        values[p->layout->entries[i].offset] = p->layout->entries[i].start;
}

void
ia3_parameters_read_grads(const ia3_parameters *p, float *grads)
{
    const size_t kept = p->layout->kept;

    if (kept == 0) {
        p->m->dev->ops->download(p->m->dev, grads, p->adapter_grads, p->layout->n_values * sizeof *grads);
        return;
    }
    memset(grads, 0, p->layout->n_values * sizeof *grads);
    gather(p, p->grads, grads + 2 * kept);
}

bool
ia3_parameters_lack_mask(const ia3_parameters *p)
{
    return p->layout->kept > 0 && p->mask == NULL;
}

/* The sums are where second moments are going to be. */
void
ia3_parameters_add_squares(const ia3_parameters *p)
{
    p->m->dev->ops->add_squares(p->m->dev, p->second_moment, p->grads, p->trained->n_values);
}

bool
ia3_parameters_set_mask(ia3_parameters *p, const uint64_t *positions, ia3_error *err)
{
    for (size_t i = 0; i < p->layout->kept; i++)
        p->positions[i] = (size_t) positions[i];
    return set_mask(p, err);
}

bool
ia3_parameters_choose_mask(ia3_parameters *p, ia3_error *err)
{
    const size_t n = p->trained->n_values;
    float *sums = ia3_alloc_array(n, sizeof *sums);

    p->m->dev->ops->download(p->m->dev, sums, p->second_moment, n * sizeof *sums);
    p->m->dev->ops->zero(p->m->dev, p->second_moment, n * sizeof *sums);
    ia3_mask_choose(sums, n, p->layout->kept, p->positions);
    free(sums);
    return set_mask(p, err);
}

/* The number of values of the largest tensor. */
static size_t
largest_of(const ia3_layout *l)
{
    size_t largest = 0;

    for (int i = 0; i < l->n; i++)
        if ((size_t) l->entries[i].len > largest)
            largest = (size_t) l->entries[i].len;
    return largest;
}

ia3_adafactor
ia3_parameters_adafactor(const ia3_parameters *p)
{
    return (ia3_adafactor){.values = p->values,
                           .grads = p->grads,
                           .second_moment = p->second_moment,
                           .tensor_offsets = p->tensor_offsets,
                           .tensor_rows = p->tensor_rows,
                           .tensor_slices = p->tensor_slices,
                           .n_tensors = p->trained->n,
                           .largest = largest_of(p->trained),
                           .fixed_step = p->layout->variant.method->fixed_step,
                           .clip_norm = 1.0};
}
