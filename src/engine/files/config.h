/*
 * config.h
 *     The configuration of a T5-family checkpoint, from config.json (docs/engine.md §1.1, §1.4).
 */
#ifndef IA3_CONFIG_H
#define IA3_CONFIG_H

#include "engine/device/device.h"

#define IA3_MAX_MORE_EOS 8

typedef struct ia3_config {
    char model_type[16]; /* "t5", "mt5", "umt5" */
    int vocab_size, d_model, d_kv, n_heads, d_ff;
    int inner; /* n_heads · d_kv */
    int n_enc, n_dec;
    int n_buckets, max_distance;
    float eps, dropout_rate;
    ia3_activation act;
    bool gated;
    bool bias_every_layer; /* umt5: each self-attention has its own bias table */
    bool scale_logits;     /* multiply by d_model^-0.5 before the head */
    bool untied;           /* the configuration says that the head is not the embedding */
    bool
        own_head; /* there is a head that is not the embedding; what the checkpoint has counts, if there is one */
    int pad_id, eos_id, start_id;
    int n_more_eos; /* further tokens that end a generated text, usually none */
    int more_eos[IA3_MAX_MORE_EOS];
} ia3_config;

/* Whether a token ends a generated text. */
bool ia3_config_ends(const ia3_config *config, int32_t token);

/*
 * Parses and validates `text`, the contents of config.json, which need not be zero-terminated. Defaults are those of
 * transformers' configuration classes; unknown keys are ignored. Errors (IA3_E_BAD_CHECKPOINT) name `path` and the
 * key; *config is then undefined.
 */
bool ia3_config_parse(ia3_config *config, const char *text, size_t len, const char *path, ia3_error *err);

/* Writes the configuration as a config.json, malloc'd, from which ia3_config_parse reads the same. */
char *ia3_config_json(const ia3_config *config);

#endif
