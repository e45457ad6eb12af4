/*
 * checkpoint.h
 *     A Hugging Face checkpoint directory: config.json, model.safetensors or shards with an index,
 *     spiece.model. Files are mapped; nothing is copied until the device takes a tensor.
 */
#ifndef IA3_CHECKPOINT_H
#define IA3_CHECKPOINT_H

#include "config.h"
#include "safetensors.h"

typedef struct ia3_checkpoint ia3_checkpoint;

/*
 * Opens and validates everything but the weights' values: every tensor that the graph of the config needs
 * exists with the right shape and a readable dtype. Errors (IA3_E_BAD_CHECKPOINT) name the file and the
 * field or tensor. The caller closes it after the device has its copies.
 */
ia3_checkpoint *ia3_checkpoint_open(const char *directory, ia3_error *err);
void ia3_checkpoint_close(ia3_checkpoint *ck);

/*
 * A checkpoint without files, for tests and benchmarks of large shapes: `source` is asked once for the values of each
 * tensor of the graph, of "shared.weight" and, when the head is not the embedding, of "lm_head.weight", all of one
 * dtype, row-major. They stay the caller's, outlive the checkpoint, and may be the same memory for several tensors.
 */
typedef const void *(*ia3_tensor_source)(const char *name, int64_t rows, int64_t cols, void *arg);
ia3_checkpoint *ia3_checkpoint_in_memory(const ia3_config *config, ia3_dtype dtype, bool own_head,
                                         ia3_tensor_source source, void *arg);

const ia3_config *ia3_checkpoint_config(const ia3_checkpoint *ck);

/* A stored tensor by its state-dict name, or NULL. Vectors have rows = 1. */
const ia3_host_tensor *ia3_checkpoint_tensor(const ia3_checkpoint *ck, const char *name);

/* Resolved roles (engine.md §1.4): embedding = first stored of shared / encoder / decoder embed_tokens, aliases
 * honoured; head = lm_head.weight if stored, else the embedding (same pointer when tied). */
const ia3_host_tensor *ia3_checkpoint_embedding(const ia3_checkpoint *ck);
const ia3_host_tensor *ia3_checkpoint_head(const ia3_checkpoint *ck);

/* Tells the kernel that the pages of this tensor are no longer needed. */
void ia3_checkpoint_release(const ia3_checkpoint *ck, const ia3_host_tensor *t);

/*
 * What identifies a backbone: SHA-256 over the resolved config fields that shape the graph and, for every
 * tensor the graph uses, sorted by name, its name, dtype, shape and the SHA-256 of its bytes. Independent of
 * sharding and file names. Reads all weights once (`progress` may be NULL; called with 0..1).
 */
bool ia3_checkpoint_digest(const ia3_checkpoint *ck, uint8_t digest[IA3_DIGEST_LEN],
                           void (*progress)(double fraction, void *arg), void *arg, ia3_error *err);

/*
 * The files that hold the weights, as they are stored. Tensors that the graph does not need are among them, and
 * a name that is an alias is not.
 */
typedef struct ia3_weight_file {
    const char *name;    /* within the directory */
    const uint8_t *data; /* mapped; begins at a page */
    size_t len;
    const ia3_safetensors *tensors;
} ia3_weight_file;
int ia3_checkpoint_n_files(const ia3_checkpoint *ck);
ia3_weight_file ia3_checkpoint_file(const ia3_checkpoint *ck, int i);

/* Path of spiece.model in the directory. */
const char *ia3_checkpoint_tokenizer_path(const ia3_checkpoint *ck);

#endif
