/*
 * test_adapter.c
 *     The layout of (IA)³ vectors, and adapters in the formats of peft and T-Few.
 */
#include "file_fixture.h"

#include "engine/base/alloc.h"
#include "engine/files/adapter.h"
#include "engine/model/methods/methods.h"

#define GOLDEN "test/golden/"

static ia3_layout *
layout_of(const char *name, ia3_config *config)
{
    char directory[128];
    ia3_error err = {0};

    snprintf(directory, sizeof directory, GOLDEN "%s", name);

    buffer b = read_in(directory, "config.json");

    assert_true(ia3_config_parse(config, (const char *) b.data, b.len, "config.json", &err));
    free(b.data);
    return ia3_layout_create(config, ia3_variant_standard(ia3_methods[0]));
}

static buffer
read_golden(const char *name, const char *file)
{
    char directory[128];

    snprintf(directory, sizeof directory, GOLDEN "%s", name);
    return read_in(directory, file);
}

/* The numbers of values that docs/engine.md §2 gives for published models. */
static void
test_counts(void **state)
{
    static const struct {
        int layers, inner, d_ff;
        size_t values;
    } cases[] = {{24, 2048, 5120, 540672},
                 {24, 4096, 10240, 1081344},
                 {12, 768, 2048, 104448},
                 {24, 1024, 2816, 282624}};

    for (int i = 0; i < 4; i++) {
        ia3_config c = {.n_enc = cases[i].layers,
                        .n_dec = cases[i].layers,
                        .inner = cases[i].inner,
                        .d_ff = cases[i].d_ff,
                        .gated = true};
        ia3_layout *l = ia3_layout_create(&c, ia3_variant_standard(ia3_methods[0]));

        assert_int_equal(l->n_values, cases[i].values);
        assert_int_equal(l->n, 8 * cases[i].layers);
        ia3_layout_free(l);
    }
}

static void
test_offsets(void **state)
{
    ia3_config c;
    ia3_layout *l = layout_of("t5-gated-untied", &c); /* 3 encoder and 2 decoder layers, inner 48, d_ff 40 */

    assert_int_equal(l->n, 3 * 3 + 2 * 5);
    assert_int_equal(l->n_values, 3 * (2 * 48 + 40) + 2 * (4 * 48 + 40));
    assert_string_equal(l->entries[3].name, "base_model.model.encoder.block.1.layer.0.SelfAttention.k.ia3_l");
    assert_int_equal(l->entries[3].offset, ia3_enc_offset(l, 1));
    assert_string_equal(l->entries[5].name,
                        "base_model.model.encoder.block.1.layer.1.DenseReluDense.wo.ia3_l");
    assert_true(l->entries[5].feedforward);
    assert_int_equal(l->entries[5].offset, ia3_enc_offset(l, 1) + 96);
    assert_string_equal(l->entries[14].name,
                        "base_model.model.decoder.block.1.layer.0.SelfAttention.k.ia3_l");
    assert_int_equal(l->entries[14].offset, ia3_dec_offset(l, 1));
    assert_string_equal(l->entries[17].name,
                        "base_model.model.decoder.block.1.layer.1.EncDecAttention.v.ia3_l");
    assert_int_equal(l->entries[17].offset, ia3_dec_offset(l, 1) + 144);
    assert_string_equal(l->entries[18].name,
                        "base_model.model.decoder.block.1.layer.2.DenseReluDense.wo.ia3_l");
    assert_int_equal(l->entries[18].offset + 40, l->n_values);
    ia3_layout_free(l);
}

/* Reading peft's file and writing it again gives the same bytes; the other formats give the same values. */
static void
test_round_trip(void **state)
{
    static const char *const names[] = {"t5-relu-tied",   "t5-gated-untied",     "t5-erf-gelu-sharded",
                                        "t5-silu-tied",   "umt5-bias-per-layer", "mt5-own-head",
                                        "t5-few-buckets", "madlad-embedding",    "t5-wide-attention"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ia3_config c;
        ia3_layout *l = layout_of(names[i], &c);
        buffer file = read_golden(names[i], "adapter/adapter_model.safetensors");
        ia3_error err = {0};
        float *values = ia3_adapter_parse(l, file.data, file.len, &err);
        size_t len;

        if (values == NULL)
            fail_msg("%s: %s", names[i], err.message);

        uint8_t *out = ia3_adapter_serialize(l, values, &len);

        assert_int_equal(len, file.len);
        assert_memory_equal(out, file.data, len);
        for (int form = 0; c.gated && form < 2; form++) {
            buffer other =
                read_golden(names[i], form ? "tfew.safetensors" : "adapter_wi1/adapter_model.safetensors");
            float *same = ia3_adapter_parse(l, other.data, other.len, &err);

            if (same == NULL)
                fail_msg("%s: %s", names[i], err.message);
            assert_memory_equal(same, values, l->n_values * sizeof *values);
            free(same);
            free(other.data);
        }
        free(out);
        free(values);
        free(file.data);
        ia3_layout_free(l);
    }
}

/* t5-relu-tied (not gated, inner 32, d_ff 48) or t5-gated-untied, with one replacement in the header of its adapter. */
static const struct {
    const char *name, *file, *from, *to, *message, *detail;
} broken[] = {
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "block.1.layer.2.DenseReluDense.wo.ia3_l",
     "block.2.layer.2.DenseReluDense.wo.ia3_l",
     "adapter: tensor \"base_model.model.decoder.block.2.layer.2.DenseReluDense.wo.ia3_l\" does not belong "
     "to this backbone",
     ""},
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "decoder.block.1.layer.2.DenseReluDense.wo.ia3_l",
     "decoder.block.1.layer.2.DenseReluDense.wi.ia3_l",
     "adapter: tensor \"base_model.model.decoder.block.1.layer.2.DenseReluDense.wi.ia3_l\" does not belong "
     "to this backbone",
     "Scaling the output of wi is not the same as scaling the input of wo."},
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "decoder.block.1.layer.2.DenseReluDense.wo.ia3_l",
     "decoder.block.1.layer.2.DenseReluDense.wi_1.ia3_l",
     "adapter: tensor \"base_model.model.decoder.block.1.layer.2.DenseReluDense.wi_1.ia3_l\" does not belong "
     "to this backbone",
     "The backbone's feed-forward layers are not gated and have no wi_1."},
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "decoder.block.1.layer.0.SelfAttention.k.ia3_l",
     "decoder.block.1.layer.0.SelfAttention.k.lora_A",
     "adapter: tensor \"base_model.model.decoder.block.1.layer.0.SelfAttention.k.lora_A\" does not belong to "
     "this backbone",
     "Names end in .ia3_l (peft) or .multi_lora_b (T-Few)."},
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "[32,1]", "[1,32]",
     "adapter: tensor \"base_model.model.decoder.block.0.layer.0.SelfAttention.k.ia3_l\" has the wrong shape "
     "for this backbone",
     "Its shape is [1, 32], but should be [32, 1]."},
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "[1,48]", "[48,1]",
     "adapter: tensor \"base_model.model.decoder.block.0.layer.2.DenseReluDense.wo.ia3_l\" has the wrong "
     "shape for this backbone",
     "Its shape is [48, 1], but should be [1, 48]."},
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "[32,1]", "[8,4]",
     "adapter: tensor \"base_model.model.decoder.block.0.layer.0.SelfAttention.k.ia3_l\" has the wrong shape "
     "for this backbone",
     "Its shape is [8, 4], but should be [32, 1]."},
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "[32,1]", "[32,1,1]",
     "adapter: tensor \"base_model.model.decoder.block.0.layer.0.SelfAttention.k.ia3_l\" has the wrong shape "
     "for this backbone",
     "It should have 32 values in one or two dimensions."},
    {"t5-relu-tied", "adapter/adapter_model.safetensors", "\"F32\"", "\"I32\"",
     "adapter: tensor \"base_model.model.decoder.block.0.layer.0.SelfAttention.k.ia3_l\": \"dtype\" is not "
     "F32, BF16, F16 or F64",
     ""},
    {"t5-relu-tied", "adapter/adapter_model.safetensors",
     "base_model.model.decoder.block.0.layer.0.SelfAttention.k.ia3_l",
     "decoder.block.0.layer.0.SelfAttention.v.ia3_l",
     "adapter: tensor \"base_model.model.decoder.block.0.layer.0.SelfAttention.v.ia3_l\" duplicates the "
     "values of another tensor",
     ""},
    {"t5-gated-untied", "adapter/adapter_model.safetensors",
     "encoder.block.2.layer.1.DenseReluDense.wo.ia3_l", "encoder.block.1.layer.1.DenseReluDense.wi_1.ia3_l",
     "adapter: tensor \"base_model.model.encoder.block.1.layer.1.DenseReluDense.wi_1.ia3_l\" duplicates the "
     "values of another tensor",
     ""},
    {"t5-gated-untied", "tfew.safetensors", "decoder.block.0.layer.2.DenseReluDense.wi_1.multi_lora_b",
     "decoder.block.0.layer.2.DenseReluDense.wo.multi_lora_b",
     "adapter: tensor \"decoder.block.0.layer.2.DenseReluDense.wo.multi_lora_b\" does not belong to this "
     "backbone",
     ""},
    {"t5-gated-untied", "adapter_wi1/adapter_model.safetensors", "[40,1]", "[1,40]",
     "adapter: tensor \"base_model.model.decoder.block.0.layer.2.DenseReluDense.wi_1.ia3_l\" has the wrong "
     "shape for this backbone",
     "Its shape is [1, 40], but should be [40, 1]."},
};

static void
test_broken(void **state)
{
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        ia3_config c;
        ia3_layout *l = layout_of(broken[i].name, &c);
        buffer file = read_golden(broken[i].name, broken[i].file);
        buffer edited = edit_header(file, broken[i].from, broken[i].to);
        ia3_error err = {0};

        assert_null(ia3_adapter_parse(l, edited.data, edited.len, &err));
        assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
        assert_string_equal(err.message, broken[i].message);
        assert_string_equal(err.detail, broken[i].detail);
        free(edited.data);
        free(file.data);
        ia3_layout_free(l);
    }
}

static void
test_wrong_backbone(void **state)
{
    ia3_config c;
    ia3_layout *l = layout_of("t5-gated-untied", &c);
    buffer file = read_golden("t5-silu-tied", "adapter/adapter_model.safetensors");
    ia3_error err = {0};

    assert_null(ia3_adapter_parse(l, file.data, file.len, &err));
    assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
    free(file.data);

    /* an adapter for fewer layers fits, but lacks tensors, which is an error */
    c.n_enc--;

    ia3_layout *small = ia3_layout_create(&c, ia3_variant_standard(ia3_methods[0]));
    float *values = ia3_alloc_array(small->n_values, sizeof *values);
    size_t len;
    uint8_t *out = ia3_adapter_serialize(small, values, &len);

    err.code = 0;
    assert_null(ia3_adapter_parse(l, out, len, &err));
    assert_string_equal(err.message,
                        "adapter: tensor \"base_model.model.encoder.block.2.layer.0.SelfAttention.k.ia3_l\" "
                        "is missing");
    assert_string_equal(err.detail, "Other layers have it; the adapter may be one for fewer layers.");
    free(out);
    free(values);
    ia3_layout_free(small);
    ia3_layout_free(l);
}

/* Writes the tensors whose name contains `part`, with values that tell them apart; reads them; returns all values. */
static float *
read_part(const ia3_layout *l, const char *part, const char *other, ia3_error *err)
{
    ia3_layout some = *l;
    float *values = ia3_alloc_array(l->n_values, sizeof *values);
    size_t len;

    some.entries = ia3_alloc_array((size_t) l->n, sizeof *some.entries);
    some.n = 0;
    for (int i = 0; i < l->n; i++)
        if (strstr(l->entries[i].name, part) || (other && strstr(l->entries[i].name, other)))
            some.entries[some.n++] = l->entries[i];
    for (size_t k = 0; k < l->n_values; k++)
        values[k] = 2 + (float) k;

    uint8_t *out = ia3_adapter_serialize(&some, values, &len);

    free(values);
    memset(err, 0, sizeof *err);
    values = ia3_adapter_parse(l, out, len, err);
    for (int i = 0; values && i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        bool given = strstr(e->name, part) || (other && strstr(e->name, other));

        for (size_t k = e->offset; k < e->offset + (size_t) e->len; k++)
            assert_true(values[k] == (given ? 2 + (float) k : e->start));
    }
    free(out);
    free(some.entries);
    return values;
}

/* What was not trained is left as the backbone has it: kinds of modules, or a stack. */
static void
test_parts(void **state)
{
    static const struct {
        const char *method, *part, *other, *message;
    } cases[] = {
        {"ia3", ".k.", ".v.", NULL},
        {"ia3", "encoder", NULL, NULL},
        {"ia3", "SelfAttention", NULL, NULL},
        {"ia3", "block.0.", NULL,
         "adapter: tensor \"base_model.model.encoder.block.1.layer.0.SelfAttention.k.ia3_l\" is missing"},
        {"ia3", "nothing", NULL, "adapter: there are no tensors"},
        {"lora", ".q.", ".v.", NULL},
        {"lora", "decoder", NULL, NULL},
        {"lora", "lora_A", NULL,
         "adapter: tensor \"base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight\" is "
         "missing"},
        {"bitfit", ".scale", NULL, NULL},
        {"bitfit", ".bias", NULL, NULL},
        {"layernorm", "final_layer_norm", NULL, NULL},
        {"prompt", "nothing", NULL, "adapter: there are no tensors"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ia3_config c;
        ia3_error err = {0};

        ia3_layout_free(layout_of("t5-gated-untied", &c));

        ia3_layout *l = ia3_layout_create(
            &c, ia3_variant_standard(ia3_method_find(ia3_methods, cases[i].method, strlen(cases[i].method))));
        float *values = read_part(l, cases[i].part, cases[i].other, &err);

        if (cases[i].message == NULL && values == NULL)
            fail_msg("%s %s: %s", cases[i].method, cases[i].part, err.message);
        if (cases[i].message != NULL) {
            assert_null(values);
            assert_string_equal(err.message, cases[i].message);
            assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
        }
        free(values);
        ia3_layout_free(l);
    }
}

static void
test_not_finite(void **state)
{
    static const uint32_t bits[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff};
    ia3_config c;
    ia3_layout *l = layout_of("t5-relu-tied", &c);
    buffer file = read_golden("t5-relu-tied", "adapter/adapter_model.safetensors");

    for (int i = 0; i < 4; i++) {
        ia3_error err = {0};

        memcpy(file.data + file.len - 8, &bits[i], 4); /* position 46 of the last tensor's 48 */
        assert_null(ia3_adapter_parse(l, file.data, file.len, &err));
        assert_int_equal(err.code, IA3_E_BAD_ADAPTER);
        assert_string_equal(
            err.message,
            "adapter: tensor \"base_model.model.encoder.block.1.layer.1.DenseReluDense.wo.ia3_l\" has "
            "a value that is not finite at position 46");
    }
    free(file.data);
    ia3_layout_free(l);
}

/* One-dimensional vectors in 16-bit storage. */
static void
test_half(void **state)
{
    static const char *const names[] = {
        "encoder.block.0.layer.0.SelfAttention.k",   "encoder.block.0.layer.0.SelfAttention.v",
        "encoder.block.0.layer.1.DenseReluDense.wo", "decoder.block.0.layer.0.SelfAttention.k",
        "decoder.block.0.layer.0.SelfAttention.v",   "decoder.block.0.layer.1.EncDecAttention.k",
        "decoder.block.0.layer.1.EncDecAttention.v", "decoder.block.0.layer.2.DenseReluDense.wo"};
    static const uint16_t bf16[] = {0x3f80, 0xc000, 0x3f00}, f16[] = {0x3c00, 0xc000, 0x3800};
    ia3_config c = {.n_enc = 1, .n_dec = 1, .inner = 3, .d_ff = 3, .gated = true};
    ia3_layout *l = ia3_layout_create(&c, ia3_variant_standard(ia3_methods[0]));

    for (int half = 0; half < 2; half++) {
        char header[2000] = "{";
        uint16_t data[24];
        ia3_error err = {0};

        for (int i = 0; i < 8; i++) {
            size_t n = strlen(header);

            snprintf(header + n, sizeof header - n,
                     "%s\"%s.ia3_l\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[%d,%d]}", i ? "," : "",
                     names[i], half ? "F16" : "BF16", 6 * i, 6 * i + 6);
            memcpy(data + 3 * i, half ? f16 : bf16, 6);
        }
        strcat(header, "}");

        buffer b = make_safetensors(header, strlen(header), data, sizeof data);
        float *values = ia3_adapter_parse(l, b.data, b.len, &err);

        assert_non_null(values);
        for (int i = 0; i < 8; i++) {
            assert_true(values[3 * i] == 1.0f);
            assert_true(values[3 * i + 1] == -2.0f);
            assert_true(values[3 * i + 2] == 0.5f);
        }
        free(values);
        free(b.data);
    }
    ia3_layout_free(l);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),         cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_broken),
        cmocka_unit_test(test_not_finite),     cmocka_unit_test(test_half),
        cmocka_unit_test(test_wrong_backbone), cmocka_unit_test(test_parts),
    };

    return cmocka_run_group_tests_name("adapter", tests, NULL, NULL);
}
