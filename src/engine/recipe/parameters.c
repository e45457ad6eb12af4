/*
 * parameters.c
 *     Memory and initial values of what is trained.
 */
#include "parameters.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/model/graph.h"

static bool
is_same(const ia3_parameters *p)
{
    return p->trained == p->layout;
}

static const ia3_expansion *
expansion_of(const ia3_parameters *p)
{
    return p->layout->variant.method->expansion;
}

static float *
room(const ia3_parameters *p, size_t n)
{
    return p->m->dev->ops->alloc(p->m->dev, n * sizeof(float));
}

static bool
allocate(ia3_parameters *p, ia3_error *err)
{
    const ia3_reparameterization *r = p->layout->variant.method->reparameterization;
    const size_t n = p->trained->n_values, tensors = (size_t) p->trained->n + 1;

    p->values = room(p, n);
    p->grads = room(p, n);
    p->second_moment = room(p, n);
    p->adapter = is_same(p) ? p->values : room(p, p->layout->n_values);
    p->adapter_grads = is_same(p) ? p->grads : room(p, p->layout->n_values);
    p->passed = expansion_of(p) ? room(p, p->layout->expanded->n_values) : p->adapter;
    p->passed_grads = expansion_of(p) ? room(p, p->layout->expanded->n_values) : p->adapter_grads;
    p->scratch = is_same(p) ? NULL : room(p, r->scratch(p->layout));
    p->tensor_offsets = (int32_t *) room(p, tensors);
    p->tensor_rows = (int32_t *) room(p, tensors);
    p->tensor_slices = (int32_t *) room(p, tensors);
    if (p->values && p->grads && p->second_moment && p->adapter && p->adapter_grads && p->passed &&
        p->passed_grads && (is_same(p) || p->scratch) && p->tensor_offsets && p->tensor_rows &&
        p->tensor_slices)
        return true;
    return ia3_fail(err, IA3_E_MEMORY, "out of memory for the training state");
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

/* The values to start with, in host memory [p->trained->n_values]. */
static bool
start(const ia3_parameters *p, uint64_t seed, const float *init, float *values, ia3_error *err)
{
    const ia3_layout *l = p->layout;
    const ia3_method *method = l->variant.method;
    const ia3_start s = {
        .seed = seed, .dev = p->m->dev, .config = &p->m->config, .embedding = p->m->embedding, .model = p->m};

    if (!is_same(p))
        return method->reparameterization->start(l, &s, init, values, err);
    for (int i = 0; i < l->n; i++)
        for (int k = 0; k < l->entries[i].len; k++) {
            const size_t at = l->entries[i].offset + (size_t) k;

            values[at] = init ? init[at] : l->entries[i].start;
        }
    return init || method->start == NULL || method->start(l, &s, values, err);
}

bool
ia3_parameters_create(ia3_parameters *p, ia3_model *m, const ia3_layout *layout, uint64_t seed,
                      const float *init, ia3_error *err)
{
    *p = (ia3_parameters){.m = m, .layout = layout, .trained = layout->trained ? layout->trained : layout};

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
    if (expansion_of(p)) {
        p->prepared = expansion_of(p)->prepare(layout);
        p->host = ia3_alloc_array(2 * n, sizeof *p->host);
        p->host_passed = ia3_alloc_array(layout->expanded->n_values, sizeof *p->host_passed);
    }

    float *values = ia3_alloc_array(n, sizeof *values);
    bool ok = start(p, seed, init, values, err);

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
    void *own[] = {p->values,         p->grads,       p->second_moment, p->scratch,
                   p->tensor_offsets, p->tensor_rows, p->tensor_slices};
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
    if (!is_same(p))
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

    if (!is_same(p))
        p->layout->variant.method->reparameterization->compute_bwd(&t);
}

void
ia3_parameters_finish_adapter_grads(const ia3_parameters *p)
{
    if (expansion_of(p))
        expand_bwd(p);
}

void
ia3_parameters_changed(const ia3_parameters *p)
{
    const ia3_trained t = trained_of(p);

    if (!is_same(p))
        p->layout->variant.method->reparameterization->compute(&t);
    if (expansion_of(p))
        expand(p);
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
