/*
 * safetensors.h
 *     The safetensors container: u64 little-endian header length, JSON header, one buffer.
 *
 * Reads from memory the caller owns (a mapped file or a bytea); checks everything the format promises:
 * header length, offsets ordered, in range and without holes, shapes matching sizes, known dtypes, no
 * duplicate names.
 */
#ifndef IA3_SAFETENSORS_H
#define IA3_SAFETENSORS_H

#include "engine/base/error.h"
#include "engine/base/tensor.h"

typedef struct ia3_st_tensor {
    const char *name;
    ia3_dtype dtype; /* IA3_F32, IA3_BF16, IA3_F16; other dtypes are kept with IA3_AUTO and cannot be read */
    int ndim;
    int64_t shape[8];
    const uint8_t *data;
    size_t bytes;
} ia3_st_tensor;

typedef struct ia3_safetensors {
    int n;
    ia3_st_tensor *tensors; /* in the order of the file's data */
    int n_metadata;
    char **metadata_keys, **metadata_values; /* __metadata__ */
    void *owned;
} ia3_safetensors;

/* `what` names the source in messages ("/path/model.safetensors", "adapter"). `code` is what errors get. */
ia3_safetensors *ia3_safetensors_parse(const uint8_t *data, size_t len, const char *what, Ia3ErrorCode code,
                                       ia3_error *err);
const ia3_st_tensor *ia3_safetensors_find(const ia3_safetensors *st, const char *name);
void ia3_safetensors_free(ia3_safetensors *st);

/*
 * Serialises fp32 tensors as peft does: names sorted, {"format":"pt"} metadata, header padded with spaces to
 * a multiple of 8. Returns a malloc'd buffer. Byte-identical to safetensors' own writer for these inputs.
 */
typedef struct ia3_st_out {
    const char *name;
    int ndim;
    int64_t shape[2];
    const float *data;
} ia3_st_out;
uint8_t *ia3_safetensors_write(const ia3_st_out *tensors, int n, size_t *len);

#endif
