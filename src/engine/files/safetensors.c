/*
 * safetensors.c
 *     Parses and validates the safetensors container.
 *
 * The format (README of huggingface/safetensors, "Format") is: a little-endian u64 n; n bytes of JSON, which begin with
 * '{' and may be padded with spaces; then the data. The JSON maps each name to {dtype, shape, data_offsets: [begin,
 * end)}, with offsets relative to the data; "__metadata__" maps strings to strings. The tensors cover the data exactly.
 */
#include "safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "engine/base/alloc.h"

#define MAX_HEADER 100000000u /* the limit of the reference implementation */
/* An adapter has some hundreds of tensors, and comes from anybody; JSON takes much more memory parsed than as text. */
#define MAX_ADAPTER_HEADER 2000000u

/* What a parsed file owns besides its arrays. */
typedef struct owner {
    json_t *root;                  /* holds all names and metadata strings */
    const ia3_st_tensor **by_name; /* sorted */
} owner;

/* The state of parsing, with what error messages need. */
typedef struct parser {
    const char *what;
    Ia3ErrorCode code;
    ia3_error *err;
    const uint8_t *buffer;
    uint64_t buffer_len;
} parser;

#define FAIL(p, format, ...) ia3_fail((p)->err, (p)->code, "%s: " format, (p)->what, __VA_ARGS__)

/* The size of an element in bytes; 0 for an unknown dtype, whose size cannot be checked. */
static int
element_size(const char *dtype, ia3_dtype *type)
{
    static const struct {
        const char *name;
        int size;
        ia3_dtype type;
    } known[] = {{"F32", 4, IA3_F32},      {"BF16", 2, IA3_BF16},   {"F16", 2, IA3_F16},
                 {"F64", 8, IA3_F64},      {"I64", 8, IA3_AUTO},    {"U64", 8, IA3_AUTO},
                 {"C64", 8, IA3_AUTO},     {"I32", 4, IA3_AUTO},    {"U32", 4, IA3_AUTO},
                 {"I16", 2, IA3_AUTO},     {"U16", 2, IA3_AUTO},    {"I8", 1, IA3_AUTO},
                 {"U8", 1, IA3_AUTO},      {"BOOL", 1, IA3_AUTO},   {"F8_E4M3", 1, IA3_AUTO},
                 {"F8_E5M2", 1, IA3_AUTO}, {"F8_E8M0", 1, IA3_AUTO}};

    *type = IA3_AUTO;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, dtype) == 0) {
            *type = known[i].type;
            return known[i].size;
        }
    }
    return 0;
}

/* Reads "shape" and computes its number of elements; an overflow is an error. */
static bool
parse_shape(const parser *p, ia3_st_tensor *t, json_t *shape, uint64_t *elements)
{
    if (!json_is_array(shape))
        return FAIL(p, "tensor \"%.120s\": \"shape\" is missing or not a list", t->name);
    if (json_array_size(shape) > sizeof t->shape / sizeof t->shape[0])
        return FAIL(p, "tensor \"%.120s\": \"shape\" has %zu dimensions, more than 8", t->name,
                    json_array_size(shape));
    t->ndim = (int) json_array_size(shape);
    *elements = 1;
    for (int i = 0; i < t->ndim; i++) {
        json_t *dim = json_array_get(shape, i);

        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return FAIL(p, "tensor \"%.120s\": \"shape\" contains an invalid dimension", t->name);
        t->shape[i] = json_integer_value(dim);
        if (__builtin_mul_overflow(*elements, (uint64_t) t->shape[i], elements))
            return FAIL(p, "tensor \"%.120s\": \"shape\" overflows", t->name);
    }
    return true;
}

static bool
parse_offsets(const parser *p, ia3_st_tensor *t, json_t *offsets)
{
    json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);

    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return FAIL(p, "tensor \"%.120s\": \"data_offsets\" is not a pair of ordered offsets", t->name);
    if ((uint64_t) json_integer_value(end) > p->buffer_len)
        return FAIL(p, "tensor \"%.120s\": \"data_offsets\" end at byte %lld, but there are only %llu",
                    t->name, (long long) json_integer_value(end), (unsigned long long) p->buffer_len);
    t->data = p->buffer + json_integer_value(begin);
    t->bytes = (size_t) (json_integer_value(end) - json_integer_value(begin));
    return true;
}

static bool
parse_tensor(const parser *p, ia3_st_tensor *t, const char *name, json_t *value)
{
    uint64_t elements = 0, bytes;

    t->name = name;
    if (!json_is_object(value))
        return FAIL(p, "tensor \"%.120s\" is not described by an object", name);

    json_t *dtype = json_object_get(value, "dtype");

    if (!json_is_string(dtype))
        return FAIL(p, "tensor \"%.120s\": \"dtype\" is missing or not a string", name);
    if (!parse_shape(p, t, json_object_get(value, "shape"), &elements) ||
        !parse_offsets(p, t, json_object_get(value, "data_offsets")))
        return false;

    int size = element_size(json_string_value(dtype), &t->dtype);

    if (size == 0)
        return true; /* a dtype that is newer than this code; the tensor is listed but cannot be used */
    if (__builtin_mul_overflow(elements, (uint64_t) size, &bytes) || bytes != t->bytes)
        return FAIL(p,
                    "tensor \"%.120s\": \"shape\" and \"dtype\" do not match the %zu bytes of "
                    "\"data_offsets\"",
                    name, t->bytes);
    return true;
}

static bool
parse_metadata(const parser *p, ia3_safetensors *st, json_t *metadata)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata))
        return FAIL(p, "\"%s\" is not an object", "__metadata__");
    st->metadata_keys = ia3_alloc_array(json_object_size(metadata), sizeof(char *));
    st->metadata_values = ia3_alloc_array(json_object_size(metadata), sizeof(char *));
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return FAIL(p, "\"__metadata__\": the value of \"%.120s\" is not a string", key);
        st->metadata_keys[st->n_metadata] = (char *) key;
        st->metadata_values[st->n_metadata++] = (char *) json_string_value(value);
    }
    return true;
}

static int
compare_position(const void *a, const void *b)
{
    const ia3_st_tensor *x = a, *y = b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1
                                   : 1; /* an empty tensor comes before one that begins at the same place */
    return strcmp(x->name, y->name);
}

static int
compare_name(const void *a, const void *b)
{
    return strcmp((*(const ia3_st_tensor *const *) a)->name, (*(const ia3_st_tensor *const *) b)->name);
}

/* Checks that every byte of the buffer belongs to exactly one tensor. */
static bool
check_coverage(const parser *p, const ia3_safetensors *st)
{
    const uint8_t *at = p->buffer;

    for (int i = 0; i < st->n; i++) {
        const ia3_st_tensor *t = &st->tensors[i];

        if (t->data < at)
            return FAIL(p, "tensor \"%.120s\": \"data_offsets\" overlap with those of \"%.120s\"", t->name,
                        st->tensors[i - 1].name);
        if (t->data > at)
            return FAIL(p, "tensor \"%.120s\": \"data_offsets\" leave a gap before the tensor", t->name);
        at += t->bytes;
    }
    if ((uint64_t) (at - p->buffer) != p->buffer_len)
        return FAIL(p, "%llu bytes after the last tensor do not belong to any tensor",
                    (unsigned long long) (p->buffer_len - (uint64_t) (at - p->buffer)));
    return true;
}

static bool
parse_entries(const parser *p, ia3_safetensors *st, json_t *root)
{
    const char *key;
    json_t *value;

    if (json_object_size(root) > INT32_MAX)
        return FAIL(p, "more than %d tensors", INT32_MAX);
    st->tensors = ia3_alloc_array(json_object_size(root), sizeof *st->tensors);
    json_object_foreach(root, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) {
            if (!parse_metadata(p, st, value))
                return false;
        } else if (!parse_tensor(p, &st->tensors[st->n++], key, value))
            return false;
    }
    qsort(st->tensors, st->n, sizeof *st->tensors, compare_position);
    return check_coverage(p, st);
}

/* Checks the length of the header, parses its JSON and sets p->buffer. */
static json_t *
parse_header(parser *p, const uint8_t *data, size_t len)
{
    uint64_t header;
    json_error_t where;

    if (len < 8) {
        FAIL(p, "%zu bytes are too few for a safetensors file", len);
        return NULL;
    }
    header = ia3_little_endian(data, 8);
    unsigned limit = p->code == IA3_E_BAD_ADAPTER ? MAX_ADAPTER_HEADER : MAX_HEADER;
    if (header > limit) {
        FAIL(p, "header length %llu exceeds the limit of %u bytes", (unsigned long long) header, limit);
        return NULL;
    }
    if (header > len - 8) {
        FAIL(p, "header length %llu exceeds the %zu bytes that follow it", (unsigned long long) header,
             len - 8);
        return NULL;
    }
    if (header == 0 || data[8] != '{') {
        FAIL(p, "header does not begin with \"%c\"", '{');
        return NULL;
    }
    p->buffer = data + 8 + header;
    p->buffer_len = len - 8 - header;

    json_t *root = json_loadb((const char *) data + 8, header, JSON_REJECT_DUPLICATES, &where);

    if (root == NULL)
        FAIL(p, "invalid JSON in the header at byte %d: %.120s", where.position, where.text);
    return root;
}

static bool
begins_with(const uint8_t *data, size_t len, const char *start)
{
    return len >= strlen(start) && memcmp(data, start, strlen(start)) == 0;
}

void
ia3_name_other_format(ia3_error *err, const uint8_t *data, size_t len)
{
    if (begins_with(data, len, "version https://git-lfs.github.com/spec/")) {
        ia3_fail_detail(err,
                        "It is a Git LFS pointer, which stands for a file that has not been downloaded.");
        ia3_fail_hint(err, "Fetch the file with \"git lfs pull\".");
    } else if (begins_with(data, len, "PK\003\004") || (len >= 2 && data[0] == 0x80 && data[1] <= 5)) {
        /* torch.save writes a zip archive, and wrote pickles of protocol 2 before */
        ia3_fail_detail(err, "It is a file of PyTorch.");
        ia3_fail_hint(err, "Files of PyTorch have names that end in \".bin\".");
    } else if (begins_with(data, len, "<")) {
        ia3_fail_detail(err, "It is an HTML or XML page, such as a server sends in place of a file.");
        ia3_fail_hint(err, "Download the file again.");
    } else if (begins_with(data, len, "{")) {
        ia3_fail_detail(err, "It is a JSON file.");
        ia3_fail_hint(err, "The tensors are in a file that ends in \".safetensors\".");
    }
}

ia3_safetensors *
ia3_safetensors_parse(const uint8_t *data, size_t len, const char *what, Ia3ErrorCode code, ia3_error *err)
{
    parser p = {.what = what, .code = code, .err = err};
    json_t *root = parse_header(&p, data, len);

    if (root == NULL) {
        ia3_name_other_format(err, data, len);
        return NULL;
    }

    ia3_safetensors *st = ia3_alloc(sizeof *st);
    owner *o = ia3_alloc(sizeof *o);

    st->owned = o;
    o->root = root;
    if (!parse_entries(&p, st, root)) {
        ia3_safetensors_free(st);
        return NULL;
    }
    o->by_name = ia3_alloc_array(st->n, sizeof *o->by_name);
    for (int i = 0; i < st->n; i++)
        o->by_name[i] = &st->tensors[i];
    qsort(o->by_name, st->n, sizeof *o->by_name, compare_name);
    return st;
}

const ia3_st_tensor *
ia3_safetensors_find(const ia3_safetensors *st, const char *name)
{
    const owner *o = st->owned;
    const ia3_st_tensor key = {.name = name}, *key_ptr = &key;

    for (int i = 0; o == NULL && i < st->n; i++)
        if (strcmp(st->tensors[i].name, name) == 0)
            return &st->tensors[i];
    if (o == NULL)
        return NULL;

    const ia3_st_tensor **found = bsearch(&key_ptr, o->by_name, st->n, sizeof *o->by_name, compare_name);

    return found ? *found : NULL;
}

void
ia3_safetensors_free(ia3_safetensors *st)
{
    if (st == NULL)
        return;

    owner *o = st->owned;

    json_decref(o->root);
    free(o->by_name);
    free(o);
    free(st->tensors);
    free(st->metadata_keys);
    free(st->metadata_values);
    free(st);
}
