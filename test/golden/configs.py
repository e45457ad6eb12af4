"""The tiny configurations: what each is there to catch, its random weights and its random inputs.

Everything is drawn from NumPy's PCG64 with a fixed seed per configuration, so that the same files come out on any
machine. Weights follow T5's own initialisation (attention scores and logits of order one), except that the relative
bias and the layer norms vary more, so that a mistake in either is visible.
"""

import json
import os
from dataclasses import dataclass, field

import numpy as np
import sentencepiece

EOS = 1
CHECKOUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


@dataclass
class Golden:
    name: str
    seed: int
    config: dict                 # config.json, without what every configuration shares
    oracle: dict = field(default_factory=dict)  # keys that the oracle's config has otherwise (see mt5-own-head)
    storage: str = "F32"         # dtype of the stored weights
    shards: int = 1
    shared_name: str = "shared.weight"  # name under which the embedding is stored
    input_lengths: tuple = (3, 9, 17)
    choice_lengths: tuple = (2, 3, 5)
    gated: bool = True
    source: str = ""             # an existing checkpoint (relative to the checkout) instead of drawn weights


COMMON = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}

V1_1 = dict(vocab_size=150, d_model=32, d_kv=16, num_heads=3, d_ff=40, num_layers=3, num_decoder_layers=2,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False)
SMALL = dict(d_model=24, d_kv=8, num_heads=3, d_ff=40, num_layers=2, num_decoder_layers=2)
HALF = SMALL | dict(vocab_size=300, feed_forward_proj="gated-gelu", tie_word_embeddings=False)

CONFIGS = [
    # T5 v1.0: no gate, so l_ff can only sit at wo's input; tied head, scaled logits (the flag is absent = true)
    Golden("t5-relu-tied", 101,
           dict(vocab_size=128, d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, feed_forward_proj="relu"),
           gated=False),
    # v1.1: own head, unscaled, inner dimension differs from d_model, decoder shorter than encoder
    Golden("t5-gated-untied", 102, V1_1),
    # explicit dense_act_fn wins over feed_forward_proj: gelu means the erf form; two shards
    Golden("t5-erf-gelu-sharded", 103, V1_1 | dict(dense_act_fn="gelu", is_gated_act=True), shards=2),
    # gated-silu stays silu; an odd vocabulary; tied by an explicit flag
    Golden("t5-silu-tied", 104,
           SMALL | dict(vocab_size=131, feed_forward_proj="gated-silu", tie_word_embeddings=True)),
    # UMT5: a bias table in every self-attention layer
    Golden("umt5-bias-per-layer", 105,
           SMALL | dict(architectures=["UMT5ForConditionalGeneration"], model_type="umt5",
                        vocab_size=140, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    # mT5 whose config says tied although it has a head of its own and never scales its logits
    Golden("mt5-own-head", 106,
           SMALL | dict(architectures=["MT5ForConditionalGeneration"], model_type="mt5", vocab_size=144,
                        feed_forward_proj="gated-gelu", tie_word_embeddings=True),
           oracle=dict(tie_word_embeddings=False)),
    # few buckets and a long input: every distance beyond max_distance shares the last bucket
    Golden("t5-few-buckets", 107,
           dict(vocab_size=160, d_model=16, d_kv=8, num_heads=2, d_ff=24, num_layers=2,
                num_decoder_layers=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
                relative_attention_num_buckets=8, relative_attention_max_distance=20),
           input_lengths=(5, 40, 300), choice_lengths=(2, 12, 34)),
    # no shared.weight: the embedding is stored as the decoder's only (MADLAD); the head must not become it
    Golden("madlad-embedding", 108,
           SMALL | dict(vocab_size=136, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
           shared_name="decoder.embed_tokens.weight"),
    # inner dimension far above d_model, as in t5-3b; no max_distance in the JSON, as in T0's time
    Golden("t5-wide-attention", 109,
           dict(vocab_size=128, d_model=16, d_kv=16, num_heads=8, d_ff=64, num_layers=2,
                feed_forward_proj="relu", tie_word_embeddings=True, relative_attention_max_distance=None),
           gated=False),
    # half precision files; the oracle computes with the rounded weights
    Golden("t5-stored-bf16", 110, HALF, storage="BF16"),
    Golden("t5-stored-fp16", 111, HALF, storage="F16"),
]


# The backbone of other tests: trained weights, on words.
MINI = Golden("backbone", 112, {}, source="test/backbone")
MINI_INPUTS = [
    ("Is this a complaint? My parcel arrived two weeks late and the box was open. Answer:", ["Yes", "No", "Maybe", "I do not know"]),
    ("Sentence: The drug was well tolerated. Label:", ["ADE-related", "not ADE-related", "unclear", "not related at all"]),
    ("word " * 120 + "Topic:", ["sports", "business news", "science and technology", "politics"]),
]


def config_json(golden):
    if golden.source:
        with open(f"{CHECKOUT}/{golden.source}/config.json") as f:
            return json.load(f)
    return {k: v for k, v in (COMMON | golden.config).items() if v is not None}


def weight_std(name, c):
    """Standard deviation of a weight, as T5 initialises it (see the module's comment for the exceptions)."""
    if "relative_attention_bias" in name:
        return 0.8
    if name == "lm_head.weight":
        return 1.5 * c["d_model"] ** -0.5
    if name.endswith(".q.weight"):
        return 1.5 * (c["d_model"] * c["d_kv"]) ** -0.5
    if name.endswith((".k.weight", ".v.weight")) or ".wi" in name:
        return c["d_model"] ** -0.5
    if name.endswith(".o.weight"):
        return (c["num_heads"] * c["d_kv"]) ** -0.5
    if name.endswith(".wo.weight"):
        return c["d_ff"] ** -0.5
    return 1.0  # the embedding


def draw_weights(golden, shapes):
    """shapes: {state-dict name: shape}. Returns float32 arrays."""
    rng = np.random.default_rng(golden.seed)
    weights = {}
    for name in sorted(shapes):
        x = rng.standard_normal(shapes[name])
        if name.endswith("layer_norm.weight"):
            x = 1.0 + 0.2 * x
        else:
            x = x * weight_std(name, config_json(golden))
        weights[name] = x.astype(np.float32)
    return weights


def draw_vectors(golden, shapes):
    """(IA)3 vectors around one, of which about a tenth are negative and a twentieth exactly zero."""
    rng = np.random.default_rng(golden.seed + 1000)
    vectors = {}
    for name in sorted(shapes):
        x = 1.0 + 0.25 * rng.standard_normal(shapes[name])
        kind = rng.random(shapes[name])
        x = np.where(kind < 0.1, -0.7 * x, x)
        x = np.where(kind > 0.95, 0.0, x)
        vectors[name] = x.astype(np.float32)
    return vectors


def draw_ids(rng, vocab, n):
    return [int(i) for i in rng.integers(2, vocab, n - 1)] + [EOS]


def draw_choices(rng, vocab, lengths, n):
    """n distinct choices. The second continues the first's tokens, the third shares the second's beginning, so that a
    prefix trie has something to share; one choice is a proper prefix of another up to </s>."""
    choices = [draw_ids(rng, vocab, lengths[0])]
    if n > 1:
        choices.append(choices[0][:-1] + draw_ids(rng, vocab, max(lengths[1] - lengths[0] + 1, 2)))
    if n > 2:
        keep = max(len(choices[1]) - 2, 1)
        choices.append(choices[1][:keep] + draw_ids(rng, vocab, max(lengths[2] - keep, 2)))
    while len(choices) < n:
        choices.append(draw_ids(rng, vocab, int(rng.integers(2, 5))))
    assert len({tuple(c) for c in choices}) == n
    return choices


def draw_inputs(golden):
    """[(ids, choices)] to score."""
    if golden.source:
        tok = sentencepiece.SentencePieceProcessor(model_file=f"{CHECKOUT}/{golden.source}/spiece.model")
        return [(tok.encode(text) + [EOS], [tok.encode(c) + [EOS] for c in choices]) for text, choices in MINI_INPUTS]
    rng = np.random.default_rng(golden.seed + 2000)
    vocab = config_json(golden)["vocab_size"]
    return [(draw_ids(rng, vocab, n), draw_choices(rng, vocab, golden.choice_lengths, 4))
            for n in golden.input_lengths]


def draw_examples(golden):
    """[(ids, choices, label)] to train on: eight with three choices (T-Few wants one number in a batch), then one
    with two and one with four."""
    rng = np.random.default_rng(golden.seed + 3000)
    vocab = config_json(golden)["vocab_size"]
    examples = []
    for i in range(10):
        n = {8: 2, 9: 4}.get(i, 3)
        ids = draw_ids(rng, vocab, int(rng.integers(3, 14)))
        lengths = sorted(int(x) for x in rng.integers(2, 6, 3))
        examples.append((ids, draw_choices(rng, vocab, lengths, n), int(rng.integers(0, n))))
    return examples


def draw_plan(golden, steps, batch):
    """[steps][batch] indices of examples: without replacement inside a batch, any example at any time."""
    rng = np.random.default_rng(golden.seed + 4000)
    return [[int(i) for i in rng.permutation(10)[:batch]] for _ in range(steps)]
