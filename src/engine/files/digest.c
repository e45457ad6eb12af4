/*
 * digest.c
 *     Computes the digest that identifies a backbone, independently of file names and sharding.
 *
 * It is a SHA-256 over lines of text: the fields that determine the graph and then, for each tensor of the graph in the
 * order of names, "name dtype rows cols sha256-of-the-bytes". The embedding has the name shared.weight, and a separate
 * head lm_head.weight. Tables of adapters store digests, so the format must not change without a new first line.
 */
#include "checkpoint.h"

#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "state_dict.h"

#define CHUNK ((size_t) 16 << 20)

typedef struct named {
    const char *name;
    const ia3_host_tensor *tensor;
} named;

typedef struct hasher {
    EVP_MD_CTX *outer, *inner;
    void (*progress)(double fraction, void *arg);
    void *arg;
    double done, total; /* bytes */
    bool failed;
} hasher;

static void __attribute__((format(printf, 2, 3))) put_line(hasher *h, const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0 || (size_t) n >= sizeof line || !EVP_DigestUpdate(h->outer, line, (size_t) n))
        h->failed = true;
}

static void
put_config(hasher *h, const ia3_config *c)
{
    static const char *const acts[] = {"relu", "gelu", "gelu_new", "silu"};
    uint32_t eps_bits;

    memcpy(&eps_bits, &c->eps, sizeof eps_bits);
    put_line(h, "ia3 backbone 1\n");
    put_line(h, "type %s\nvocab_size %d\nd_model %d\nd_kv %d\nn_heads %d\nd_ff %d\nn_enc %d\nn_dec %d\n",
             c->model_type, c->vocab_size, c->d_model, c->d_kv, c->n_heads, c->d_ff, c->n_enc, c->n_dec);
    put_line(
        h,
        "n_buckets %d\nmax_distance %d\neps %08x\nact %s\ngated %d\nbias_every_layer %d\nscale_logits %d\n",
        c->n_buckets, c->max_distance, eps_bits, acts[c->act], c->gated, c->bias_every_layer,
        c->scale_logits);
    put_line(h, "pad %d\neos %d\nstart %d\n", c->pad_id, c->eos_id, c->start_id);
}

static size_t
tensor_bytes(const ia3_host_tensor *t)
{
    return (size_t) t->rows * (size_t) t->cols * ia3_dtype_size(t->dtype);
}

static void
put_tensor(hasher *h, const ia3_checkpoint *ck, const named *n)
{
    static const char *const dtypes[] = {"", "F32", "BF16", "F16"};
    const ia3_host_tensor *t = n->tensor;
    size_t bytes = tensor_bytes(t);
    uint8_t digest[IA3_DIGEST_LEN];
    char hex[2 * IA3_DIGEST_LEN + 1];

    h->failed = h->failed || !EVP_DigestInit_ex(h->inner, EVP_sha256(), NULL);
    for (size_t at = 0; at < bytes && !h->failed; at += CHUNK) {
        size_t len = bytes - at < CHUNK ? bytes - at : CHUNK;

        h->failed = !EVP_DigestUpdate(h->inner, (const uint8_t *) t->data + at, len);
        h->done += (double) len;
        if (h->progress != NULL)
            h->progress(h->done / h->total, h->arg);
    }
    h->failed = h->failed || !EVP_DigestFinal_ex(h->inner, digest, NULL);
    ia3_checkpoint_release(ck, t); /* reading all weights must not make them all resident */
    if (h->failed)
        return;
    for (int i = 0; i < IA3_DIGEST_LEN; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    put_line(h, "%s %s %lld %lld %s\n", n->name, dtypes[t->dtype], (long long) t->rows, (long long) t->cols,
             hex);
}

static int
compare_named(const void *a, const void *b)
{
    return strcmp(((const named *) a)->name, ((const named *) b)->name);
}

/* The tensors of the graph, sorted by name. */
static named *
list_tensors(const ia3_checkpoint *ck, const ia3_state_tensor *graph, int n_graph, int *n)
{
    named *list = ia3_alloc_array((size_t) n_graph + 2, sizeof *list);

    *n = 0;
    for (int i = 0; i < n_graph; i++)
        list[(*n)++] = (named){graph[i].name, ia3_checkpoint_tensor(ck, graph[i].name)};
    list[(*n)++] = (named){"shared.weight", ia3_checkpoint_embedding(ck)};
    if (ia3_checkpoint_head(ck) != ia3_checkpoint_embedding(ck))
        list[(*n)++] = (named){"lm_head.weight", ia3_checkpoint_head(ck)};
    qsort(list, *n, sizeof *list, compare_named);
    return list;
}

bool
ia3_checkpoint_digest(const ia3_checkpoint *ck, uint8_t digest[IA3_DIGEST_LEN],
                      void (*progress)(double fraction, void *arg), void *arg, ia3_error *err)
{
    hasher h = {.outer = EVP_MD_CTX_new(), .inner = EVP_MD_CTX_new(), .progress = progress, .arg = arg};
    int n_graph, n;
    ia3_state_tensor *graph = ia3_state_dict(ia3_checkpoint_config(ck), &n_graph);
    named *list = list_tensors(ck, graph, n_graph, &n);

    h.failed = h.outer == NULL || h.inner == NULL || !EVP_DigestInit_ex(h.outer, EVP_sha256(), NULL);
    for (int i = 0; i < n; i++)
        h.total += (double) tensor_bytes(list[i].tensor);
    if (!h.failed)
        put_config(&h, ia3_checkpoint_config(ck));
    for (int i = 0; i < n && !h.failed; i++)
        put_tensor(&h, ck, &list[i]);
    h.failed = h.failed || !EVP_DigestFinal_ex(h.outer, digest, NULL);
    EVP_MD_CTX_free(h.outer);
    EVP_MD_CTX_free(h.inner);
    free(list);
    free(graph);
    return !h.failed || ia3_fail(err, IA3_E_INTERNAL, "could not compute the digest of the backbone");
}
