/*
 * safetensors.h
 *     The safetensors container: u64 little-endian header length, JSON header, one buffer.
 *
 * It is read from memory that the caller owns (a mapped file or a bytea). Nothing in it is trusted: the length of the
 * header, the offsets (ordered, in range, without gaps), shapes that match sizes, and duplicate names are all checked.
 */
#ifndef IA3_SAFETENSORS_H
#define IA3_SAFETENSORS_H

#include "engine/base/error.h"
#include "engine/base/tensor.h"

typedef struct ia3_st_tensor {
    const char *name;
    ia3_dtype
        dtype; /* IA3_F32, IA3_BF16, IA3_F16 or IA3_F64; IA3_AUTO for all others, which cannot be used */
    int ndim;
    int64_t shape[8];
    const uint8_t *data;
    size_t bytes;
    bool transposed; /* of a file of PyTorch: a matrix that is stored column by column */
} ia3_st_tensor;

typedef struct ia3_safetensors {
    int n;
    ia3_st_tensor *tensors; /* in the order of the file's data */
    int n_metadata;
    char **metadata_keys, **metadata_values; /* __metadata__ */
    void *owned;                             /* NULL if somebody else has put tensors together */
} ia3_safetensors;

/*
 * Parses `data` [len bytes], which must outlive the result because that points into it. Errors have the code `code` and
 * name the tensor, the field and `what`, the source ("/path/model.safetensors", "adapter"). Freeing NULL is allowed.
 */
ia3_safetensors *ia3_safetensors_parse(const uint8_t *data, size_t len, const char *what, Ia3ErrorCode code,
                                       ia3_error *err);
const ia3_st_tensor *ia3_safetensors_find(const ia3_safetensors *st,
                                          const char *name); /* NULL: no such tensor */
void ia3_safetensors_free(ia3_safetensors *st);

/* Adds to an error what the bytes are, if they are something that people often have in place of a file with weights. */
void ia3_name_other_format(ia3_error *err, const uint8_t *data, size_t len);

/*
 * The beginning of a file: the length of the header and the header, padded to a multiple of 8. The tensors' data, of F32,
 * BF16 or F16, follow in the given order. Aliases are other names of tensors, which are not stored again. Returns a
 * malloc'd buffer of *len bytes.
 */
typedef struct ia3_st_alias {
    const char *name, *kept;
} ia3_st_alias;
uint8_t *ia3_safetensors_header(const ia3_st_tensor *const *tensors, int n, const ia3_st_alias *aliases,
                                int n_aliases, size_t *len);

/*
 * Serialises fp32 tensors [n] as peft does: sorted by name, with the metadata {"format":"pt"}, the header padded with
 * spaces to a multiple of 8. The result is byte-identical to that of safetensors' own writer. ndim is 0 to 3; names are
 * distinct and UTF-8. Returns a malloc'd buffer of *len bytes.
 */
typedef struct ia3_st_out {
    const char *name;
    int ndim;
    int64_t shape[3];
    const float *data;
} ia3_st_out;
uint8_t *ia3_safetensors_write(const ia3_st_out *tensors, int n, size_t *len);

#endif
