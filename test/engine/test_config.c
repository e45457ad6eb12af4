/*
 * test_config.c
 *     config.json: defaults, the rules for activation and scaling, and errors with their messages.
 */
#include "file_fixture.h"

#include "engine/files/config.h"

static bool
parse(const char *text, ia3_config *config, ia3_error *err)
{
    buffer b = buffer_copy(text, strlen(text)); /* not terminated */

    memset(err, 0, sizeof *err);

    bool ok = ia3_config_parse(config, (const char *) b.data, b.len, "config.json", err);

    free(b.data);
    return ok;
}

static void
test_refused(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[]", "config.json: not a JSON object"},
        {"{}", "config.json: \"model_type\" is missing"},
        {"{\"model_type\": 5}", "config.json: \"model_type\" is not a string"},
        {"{\"model_type\": \"longt5\"}", "config.json: \"model_type\" is \"longt5\", which is not supported"},
        {"{\"model_type\": \"t5\", \"d_model\": \"512\"}", "config.json: \"d_model\" is not an integer"},
        {"{\"model_type\": \"t5\", \"d_model\": 512.0}", "config.json: \"d_model\" is not an integer"},
        {"{\"model_type\": \"t5\", \"d_model\": true}", "config.json: \"d_model\" is not an integer"},
        {"{\"model_type\": \"t5\", \"d_model\": 0}",
         "config.json: \"d_model\" is 0, but must be between 1 and 65536"},
        {"{\"model_type\": \"t5\", \"d_ff\": -4}",
         "config.json: \"d_ff\" is -4, but must be between 1 and 1048576"},
        {"{\"model_type\": \"t5\", \"num_layers\": 1001}",
         "config.json: \"num_layers\" is 1001, but must be between 1 and 1000"},
        {"{\"model_type\": \"t5\", \"num_decoder_layers\": 0}",
         "config.json: \"num_decoder_layers\" is 0, but must be between 1 and 1000"},
        {"{\"model_type\": \"t5\", \"vocab_size\": 4294967297}",
         "config.json: \"vocab_size\" is 4294967297, but must be between 2 and 10000000"},
        {"{\"model_type\": \"t5\", \"num_heads\": 4096, \"d_kv\": 4096}",
         "config.json: \"num_heads\" times \"d_kv\" is 16777216, but must not exceed 131072"},
        {"{\"model_type\": \"t5\", \"relative_attention_num_buckets\": 2}",
         "config.json: \"relative_attention_num_buckets\" is 2, but must be between 4 and 65536"},
        {"{\"model_type\": \"t5\", \"relative_attention_max_distance\": 16}",
         "config.json: \"relative_attention_max_distance\" is 16, but must exceed half of "
         "\"relative_attention_num_buckets\" (32)"},
        {"{\"model_type\": \"t5\", \"layer_norm_epsilon\": 0}",
         "config.json: \"layer_norm_epsilon\" is 0, but must be in [1e-30, 1)"},
        {"{\"model_type\": \"t5\", \"dropout_rate\": 1}",
         "config.json: \"dropout_rate\" is 1, but must be in [0, 1)"},
        {"{\"model_type\": \"t5\", \"dropout_rate\": 0.9999999999}",
         "config.json: \"dropout_rate\" is 1, but must be in [0, 1)"},
        {"{\"model_type\": \"t5\", \"vocab_size\": 1}",
         "config.json: \"vocab_size\" is 1, but must be between 2 and 10000000"},
        {"{\"model_type\": \"t5\", \"dropout_rate\": \"x\"}",
         "config.json: \"dropout_rate\" is not a number"},
        {"{\"model_type\": \"t5\", \"feed_forward_proj\": \"gated-gelu-new\"}",
         "config.json: \"feed_forward_proj\" is \"gated-gelu-new\", neither \"ACT\" nor \"gated-ACT\""},
        {"{\"model_type\": \"t5\", \"feed_forward_proj\": \"open-gelu\"}",
         "config.json: \"feed_forward_proj\" is \"open-gelu\", neither \"ACT\" nor \"gated-ACT\""},
        {"{\"model_type\": \"t5\", \"feed_forward_proj\": \"gated-tanh\"}",
         "config.json: activation \"tanh\" of \"feed_forward_proj\" is not supported"},
        {"{\"model_type\": \"t5\", \"dense_act_fn\": \"mish\"}",
         "config.json: activation \"mish\" of \"dense_act_fn\" is not supported"},
        {"{\"model_type\": \"t5\", \"is_gated_act\": 1}",
         "config.json: \"is_gated_act\" is not true or false"},
        {"{\"model_type\": \"t5\", \"tie_word_embeddings\": \"no\"}",
         "config.json: \"tie_word_embeddings\" is not true or false"},
        {"{\"model_type\": \"t5\", \"vocab_size\": 100, \"eos_token_id\": 100}",
         "config.json: \"eos_token_id\" is 100, but must be between 0 and 99"},
        {"{\"model_type\": \"t5\", \"eos_token_id\": []}",
         "config.json: \"eos_token_id\" is a list of 0, but must be one of 1 to 9"},
        {"{\"model_type\": \"t5\", \"eos_token_id\": [1, null]}",
         "config.json: \"eos_token_id\" is not an integer"},
        {"{\"model_type\": \"t5\", \"eos_token_id\": [1, 32128]}",
         "config.json: \"eos_token_id\" is 32128, but must be between 0 and 32127"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ia3_config c;
        ia3_error err;

        assert_false(parse(cases[i].text, &c, &err));
        assert_int_equal(err.code, IA3_E_BAD_CHECKPOINT);
        assert_string_equal(err.message, cases[i].message);
    }
}

/* Every truncated file is an error, and nothing beyond the buffer is read. */
static void
test_truncated(void **state)
{
    const char *text = "{\"model_type\": \"t5\", \"d_model\": 64, \"tie_word_embeddings\": false}";

    for (size_t n = 0; n < strlen(text); n++) {
        buffer b = buffer_copy(text, n);
        ia3_config c;
        ia3_error err = {0};

        assert_false(ia3_config_parse(&c, (const char *) b.data, n, "config.json", &err));
        assert_non_null(strstr(err.message, "config.json: invalid JSON in line 1: "));
        free(b.data);
    }

    ia3_config c;
    ia3_error err;

    assert_true(parse("{\"model_type\": \"t5\", \"d_kv\": 64, \"d_kv\": 32}", &c, &err));
    assert_int_equal(c.d_kv, 32); /* as in Python, the last one counts */
    assert_true(parse("\xef\xbb\xbf{\"model_type\": \"t5\", \"initializer_factor\": NaN, \"x\": "
                      "[Infinity, -Infinity, 1000000000000000019884624838656]}",
                      &c, &err));
    assert_false(parse("{\"model_type\": \"t5\", \"dropout_rate\": NaN}", &c, &err));
    assert_string_equal(err.message, "config.json: \"dropout_rate\" is not a number");
}

/* What is written is read as the same configuration. */
static void
test_written(void **state)
{
    static const char *const cases[] = {
        "{\"model_type\": \"t5\"}",
        "{\"model_type\": \"umt5\", \"d_kv\": 32, \"num_layers\": 3, \"num_decoder_layers\": 5}",
        "{\"model_type\": \"mt5\", \"dropout_rate\": 0.123456789, \"layer_norm_epsilon\": 1e-5}",
        "{\"model_type\": \"t5\", \"feed_forward_proj\": \"gated-silu\", \"tie_word_embeddings\": false}",
        "{\"model_type\": \"t5\", \"dense_act_fn\": \"gelu\", \"is_gated_act\": true}",
        "{\"model_type\": \"t5\", \"eos_token_id\": [1, 7, 9], \"pad_token_id\": 3, \"vocab_size\": 100}",
        "{\"model_type\": \"t5\", \"scale_decoder_outputs\": false, \"relative_attention_num_buckets\": 8}",
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ia3_config c, again;
        ia3_error err;

        assert_true(parse(cases[i], &c, &err));

        char *text = ia3_config_json(&c);

        assert_true(parse(text, &again, &err));
        assert_memory_equal(&c, &again, sizeof c);
        free(text);
    }
}

static void
test_defaults(void **state)
{
    ia3_config c;
    ia3_error err;

    assert_true(parse("{\"model_type\": \"t5\"}", &c, &err));
    assert_string_equal(c.model_type, "t5");
    assert_int_equal(c.vocab_size, 32128);
    assert_int_equal(c.d_model, 512);
    assert_int_equal(c.d_kv, 64);
    assert_int_equal(c.n_heads, 8);
    assert_int_equal(c.inner, 512);
    assert_int_equal(c.d_ff, 2048);
    assert_int_equal(c.n_enc, 6);
    assert_int_equal(c.n_dec, 6);
    assert_int_equal(c.n_buckets, 32);
    assert_int_equal(c.max_distance, 128);
    assert_float_equal(c.eps, 1e-6, 1e-12);
    assert_float_equal(c.dropout_rate, 0.1, 1e-7);
    assert_int_equal(c.act, IA3_RELU);
    assert_false(c.gated);
    assert_false(c.bias_every_layer);
    assert_true(c.scale_logits);
    assert_int_equal(c.pad_id, 0);
    assert_int_equal(c.eos_id, 1);
    assert_int_equal(c.start_id, 0);

    for (int u = 0; u < 2; u++) {
        assert_true(parse(u ? "{\"model_type\": \"umt5\"}" : "{\"model_type\": \"mt5\"}", &c, &err));
        assert_int_equal(c.vocab_size, 250112);
        assert_int_equal(c.d_ff, 1024);
        assert_int_equal(c.n_enc, 8);
        assert_int_equal(c.n_dec, 8);
        assert_int_equal(c.n_heads, 6);
        assert_int_equal(c.act, IA3_GELU_NEW);
        assert_true(c.gated);
        assert_int_equal(c.bias_every_layer, u);
        assert_int_equal(c.scale_logits, u);
    }
}

/* Null means absent; the decoder has as many layers as the encoder unless stated; integers are valid as floats. */
static void
test_values(void **state)
{
    ia3_config c;
    ia3_error err;

    assert_true(
        parse("{\"model_type\": \"t5\", \"num_layers\": 3, \"num_decoder_layers\": null, \"d_kv\": 128, "
              "\"num_heads\": 32, \"d_model\": 1024, \"d_ff\": 16384, \"dropout_rate\": 0, "
              "\"pad_token_id\": 3, \"eos_token_id\": 4, \"task_specific_params\": {\"x\": [1]}}",
              &c, &err));
    assert_int_equal(c.n_enc, 3);
    assert_int_equal(c.n_dec, 3);
    assert_int_equal(c.inner, 4096);
    assert_float_equal(c.dropout_rate, 0, 0);
    assert_int_equal(c.pad_id, 3);
    assert_int_equal(c.eos_id, 4);
    assert_int_equal(c.start_id, 3);
    assert_true(parse("{\"model_type\": \"t5\", \"num_layers\": 3, \"num_decoder_layers\": 2, "
                      "\"decoder_start_token_id\": 7, \"relative_attention_num_buckets\": 8, "
                      "\"relative_attention_max_distance\": 20}",
                      &c, &err));
    assert_int_equal(c.n_dec, 2);
    assert_int_equal(c.start_id, 7);
    assert_int_equal(c.n_buckets, 8);
    assert_int_equal(c.max_distance, 20);
    assert_true(parse("{\"model_type\": \"t5\", \"eos_token_id\": [1]}", &c, &err));
    assert_int_equal(c.eos_id, 1);
    assert_int_equal(c.n_more_eos, 0);
    assert_true(parse("{\"model_type\": \"t5\", \"eos_token_id\": [2, 7]}", &c, &err));
    assert_int_equal(c.eos_id, 2);
    assert_true(ia3_config_ends(&c, 2) && ia3_config_ends(&c, 7) && !ia3_config_ends(&c, 1));
}

static void
test_activation(void **state)
{
    static const struct {
        const char *keys;
        ia3_activation act;
        bool gated;
    } cases[] = {
        {"\"feed_forward_proj\": \"relu\"", IA3_RELU, false},
        {"\"feed_forward_proj\": \"gelu\"", IA3_GELU, false},
        {"\"feed_forward_proj\": \"gated-gelu\"", IA3_GELU_NEW, true},
        {"\"feed_forward_proj\": \"gated-gelu_new\"", IA3_GELU_NEW, true},
        {"\"feed_forward_proj\": \"gated-silu\"", IA3_SILU, true},
        {"\"feed_forward_proj\": \"gated-relu\"", IA3_RELU, true},
        {"\"feed_forward_proj\": \"gelu_pytorch_tanh\"", IA3_GELU_NEW, false},
        {"\"feed_forward_proj\": \"gated-gelu\", \"dense_act_fn\": \"gelu\"", IA3_GELU, true},
        {"\"feed_forward_proj\": \"gated-gelu\", \"is_gated_act\": false", IA3_GELU_NEW, false},
        {"\"feed_forward_proj\": \"relu\", \"dense_act_fn\": \"silu\", \"is_gated_act\": true", IA3_SILU,
         true},
        {"\"feed_forward_proj\": \"relu\", \"dense_act_fn\": null", IA3_RELU, false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        ia3_config c;
        ia3_error err;

        snprintf(text, sizeof text, "{\"model_type\": \"t5\", %s}", cases[i].keys);
        assert_true(parse(text, &c, &err));
        assert_int_equal(c.act, cases[i].act);
        assert_int_equal(c.gated, cases[i].gated);
    }
}

static void
test_scaling(void **state)
{
    static const struct {
        const char *keys;
        bool scale;
    } cases[] = {
        {"\"model_type\": \"t5\"", true},
        {"\"model_type\": \"t5\", \"tie_word_embeddings\": false", false},
        {"\"model_type\": \"t5\", \"tie_word_embeddings\": true", true},
        {"\"model_type\": \"t5\", \"tie_word_embeddings\": true, \"scale_decoder_outputs\": false", false},
        {"\"model_type\": \"t5\", \"tie_word_embeddings\": false, \"scale_decoder_outputs\": true", true},
        {"\"model_type\": \"mt5\", \"tie_word_embeddings\": true", false},
        {"\"model_type\": \"umt5\", \"tie_word_embeddings\": true", true},
        {"\"model_type\": \"umt5\", \"tie_word_embeddings\": false", false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        ia3_config c;
        ia3_error err;

        snprintf(text, sizeof text, "{%s}", cases[i].keys);
        assert_true(parse(text, &c, &err));
        assert_int_equal(c.scale_logits, cases[i].scale);
    }
}

/* Messages are valid UTF-8 on one line, whatever they quote and wherever it is truncated. */
static void
test_message_text(void **state)
{
    ia3_error err = {0};
    char name[600];

    memset(name, 'x', sizeof name);
    memcpy(name + 508, "\xe2\x82\xac", 3); /* the euro sign across the end of the message */
    name[sizeof name - 1] = '\0';
    assert_false(ia3_fail(&err, IA3_E_INVALID, "%s", name));
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_string_equal(err.message + 506, "xx\xe2\x82\xac");
    err.code = 0;
    assert_false(ia3_fail(&err, IA3_E_INVALID, "x%s", name));
    assert_string_equal(err.message + 507, "xx??");
    err.code = 0;
    assert_false(ia3_fail(&err, IA3_E_INVALID,
                          "a\nb\xff"
                          "c\x01"));
    assert_string_equal(err.message, "a?b?c?");
    assert_false(ia3_fail(&err, IA3_E_MEMORY, "later"));
    assert_int_equal(err.code, IA3_E_INVALID);
    assert_string_equal(err.message, "a?b?c?");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_written), cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),  cmocka_unit_test(test_activation),
        cmocka_unit_test(test_scaling), cmocka_unit_test(test_message_text),
    };

    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
