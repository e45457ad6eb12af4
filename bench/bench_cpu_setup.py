"""What scripts/bench cpu measures on: checkpoints of random weights, rows of token ids, adapters. numpy and sentencepiece.

Everything is a function of a seed. Weights have a deviation that keeps activations and scores of an ordinary size
(products keep the variance of their input, a block adds a tenth of the residual stream's).
"""

import csv
import json
import math
import os
import random
import shutil
import struct

import numpy as np
import sentencepiece

SHAPES = {  # d_model, d_kv, heads, d_ff, layers of either stack
    "small": (512, 64, 6, 1024, 8),
    "base": (768, 64, 12, 2048, 12),
    "large": (1024, 64, 16, 2816, 24),
}
MAX_INPUT = 256
TASKS = 32
BATCH = 8
WORDS = """the patient was given a dose of drug and developed severe rash fever pain after treatment with no other
 cause found in this report we describe two cases of renal failure liver injury was observed during therapy which
 resolved when it was stopped customers ask for refund invoice login error page support order payment account new
 feature request slow crash update screen phone email please help could you not work again today yesterday""".split()


# --- safetensors ---

def to_bf16(x):
    """Round to nearest even, as stored."""
    bits = np.ascontiguousarray(x, dtype="<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def from_bf16(raw):
    return (raw.astype("<u4") << 16).view("<f4")


def write_safetensors(path, tensors):
    """tensors: name -> float32 array (stored as F32) or uint16 array (bits of BF16)."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "F32" if t.dtype == np.float32 else "BF16", "shape": list(t.shape),
                        "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(np.ascontiguousarray(t).tobytes())


def read_safetensors(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(n))
        data = memoryview(f.read())
    header.pop("__metadata__", None)
    types = {"F32": "<f4", "BF16": "<u2"}
    return {name: np.frombuffer(data[e["data_offsets"][0]:e["data_offsets"][1]], types[e["dtype"]]).reshape(e["shape"])
            for name, e in header.items()}


# --- checkpoints ---

def config_of(shape):
    d_model, d_kv, heads, d_ff, layers = SHAPES[shape]
    return {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": 32128,
            "d_model": d_model, "d_kv": d_kv, "d_ff": d_ff, "num_heads": heads, "num_layers": layers,
            "num_decoder_layers": layers, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
            "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "dropout_rate": 0.1,
            "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0, "is_encoder_decoder": True, "use_cache": True,
            "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"}


def random_weights(c, seed):
    rng = np.random.default_rng(seed)
    d, inner, ff = c["d_model"], c["num_heads"] * c["d_kv"], c["d_ff"]

    def matrix(rows, cols, deviation):
        return to_bf16(rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(deviation))

    ones = to_bf16(np.ones(d))
    w = {"shared.weight": matrix(c["vocab_size"], d, 1.0)}
    for stack in ("encoder", "decoder"):
        for i in range(c["num_layers"]):
            block = f"{stack}.block.{i}.layer"
            attentions = ["SelfAttention"] + ["EncDecAttention"] * (stack == "decoder")
            for k, name in enumerate(attentions):
                w[f"{block}.{k}.{name}.q.weight"] = matrix(inner, d, (d * c["d_kv"]) ** -0.5)
                w[f"{block}.{k}.{name}.k.weight"] = matrix(inner, d, d ** -0.5)
                w[f"{block}.{k}.{name}.v.weight"] = matrix(inner, d, d ** -0.5)
                w[f"{block}.{k}.{name}.o.weight"] = matrix(d, inner, 0.3 * inner ** -0.5)
                if k == 0 and i == 0:
                    bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
                    w[bias] = matrix(c["relative_attention_num_buckets"], c["num_heads"], 0.5)
                w[f"{block}.{k}.layer_norm.weight"] = ones
            k = len(attentions)
            w[f"{block}.{k}.DenseReluDense.wi_0.weight"] = matrix(ff, d, d ** -0.5)
            w[f"{block}.{k}.DenseReluDense.wi_1.weight"] = matrix(ff, d, d ** -0.5)
            w[f"{block}.{k}.DenseReluDense.wo.weight"] = matrix(d, ff, 0.5 * ff ** -0.5)
            w[f"{block}.{k}.layer_norm.weight"] = ones
        w[f"{stack}.final_layer_norm.weight"] = ones
    w["lm_head.weight"] = matrix(c["vocab_size"], d, 2 * d ** -0.5)
    return w


def make_checkpoint(directory, shape, tokenizer, seed=5):
    """A directory as Hugging Face has it; kept when it is there already."""
    if os.path.exists(f"{directory}/spiece.model"):
        return
    os.makedirs(directory, exist_ok=True)
    c = config_of(shape)
    with open(f"{directory}/config.json", "w") as f:
        json.dump(c, f, indent=2)
    with open(f"{directory}/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "eos_token": "</s>", "unk_token": "<unk>",
                   "pad_token": "<pad>", "model_max_length": 512}, f)
    write_safetensors(f"{directory}/model.safetensors", random_weights(c, seed))
    shutil.copy(tokenizer, f"{directory}/spiece.model")  # last: marks the directory as complete


# --- adapters ---

def vectors_of(config):
    """Module names and lengths of the (IA)3 vectors; the feed-forward's is the input of wo."""
    inner = config["num_heads"] * config["d_kv"]
    for stack in ("encoder", "decoder"):
        for i in range(config["num_layers" if stack == "encoder" else "num_decoder_layers"]):
            block = f"{stack}.block.{i}.layer"
            for k, name in enumerate(["SelfAttention"] + ["EncDecAttention"] * (stack == "decoder")):
                yield f"{block}.{k}.{name}.k", inner, False
                yield f"{block}.{k}.{name}.v", inner, False
            yield f"{block}.{2 if stack == 'decoder' else 1}.DenseReluDense.wo", config["d_ff"], True


def make_adapter(directory, config, base, seed):
    """A PEFT adapter whose vectors have a trained one's spread around 1 (docs/engine.md §2)."""
    os.makedirs(directory, exist_ok=True)
    rng = np.random.default_rng(seed)
    write_safetensors(f"{directory}/adapter_model.safetensors", {
        f"base_model.model.{module}.ia3_l":
            (1 + 0.1 * rng.standard_normal((1, n) if ff else (n, 1))).astype("<f4")
        for module, n, ff in vectors_of(config)})
    with open(f"{directory}/adapter_config.json", "w") as f:
        json.dump({"base_model_name_or_path": base, "bias": "none", "fan_in_fan_out": False,
                   "feedforward_modules": ["wo"], "inference_mode": True, "init_ia3_weights": True,
                   "modules_to_save": None, "peft_type": "IA3", "target_modules": ["k", "v", "wo"],
                   "task_type": "SEQ_2_SEQ_LM"}, f)


def merge_checkpoint(source, adapter, out):
    """The checkpoint with the vectors folded into the weights, in float32."""
    os.makedirs(out, exist_ok=True)
    weights = {n: from_bf16(t) if t.dtype == np.uint16 else t
               for n, t in read_safetensors(f"{source}/model.safetensors").items()}
    for name, vector in read_safetensors(f"{adapter}/adapter_model.safetensors").items():
        module = name.removeprefix("base_model.model.").removesuffix(".ia3_l") + ".weight"
        weights[module] = weights[module] * vector  # [out, 1] scales rows, [1, in] columns
    write_safetensors(f"{out}/model.safetensors", weights)
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    with open(f"{out}/config.json", "w") as f:
        json.dump(dict(config, torch_dtype="float32"), f)  # or converters round to the backbone's type
    shutil.copy(f"{source}/spiece.model", out)


# --- rows ---

def raft_texts(data):
    """(task, text, label, labels of the task) of RAFT's labelled rows, "Field: value" and at the end "Label:"."""
    rows = []
    for task in sorted(os.listdir(f"{data}/raft")) if os.path.isdir(f"{data}/raft") else []:
        with open(f"{data}/raft/{task}/train.csv", newline="") as f:
            records = list(csv.DictReader(f))
        labels = sorted({r["Label"] for r in records})
        for r in records:
            text = " ".join(f"{k}: {v.strip()}" for k, v in r.items() if k not in ("Label", "ID") and v.strip())
            rows.append((task, f"{text} Label:", r["Label"], labels))
    return rows


def generated_texts(n, seed=7):
    rng = random.Random(seed)
    labels = ["bug report", "feature request"]
    return [("generated", " ".join(rng.choices(WORDS, k=min(400, max(4, int(rng.lognormvariate(4.2, 0.9)))))),
             rng.choice(labels), labels) for _ in range(n)]


EIGHT = ["card arrival", "lost or stolen card", "exchange rate", "pending transfer", "cash withdrawal charge",
         "verify my identity", "declined card payment", "top up failed"]


def tokenize(pieces, text):
    ids = pieces.encode(" ".join(text.split()))
    return ids[:MAX_INPUT - 1] + [1]


def spread(rows):
    """The rows in an order in which every beginning has long and short ones like the whole."""
    by_length = sorted(rows, key=lambda r: len(r["ids"]))
    places = sorted(range(len(rows)), key=lambda i: i * (5 ** 0.5 - 1) / 2 % 1)
    out = [None] * len(rows)
    for row, place in zip(by_length, places):
        out[place] = row
    return out


def make_inputs(path, tokenizer, data, n_rows, dropout, tokens=None):
    """
    Inputs have their own lengths, at most MAX_INPUT; or, with `tokens`, all this one, from as many texts as it takes.
    The rows that every peer gets: {"rows": [{"ids", "task", "label"}], "choices": {set: [[ids of a choice]...]},
    "batches": [[row...]]}. Row i has choices[set][task % len]; sets "2", "8" and "train" (that of "2").
    """
    pieces = sentencepiece.SentencePieceProcessor(model_file=tokenizer)
    texts = raft_texts(data) or generated_texts(550)
    random.Random(3).shuffle(texts)
    pairs, rows, seen = [], [], set()
    for i, (_, text, label, labels) in enumerate(texts):
        ids = tuple(tokenize(pieces, text))
        if ids in seen or len(rows) == n_rows:
            continue
        seen.add(ids)
        for _, more, *_ in (texts[i + 1:] + texts[:i]) if tokens else ():
            if len(ids) >= tokens:
                break
            ids = ids[:-1] + tuple(tokenize(pieces, more))
        pair = [label, next(l for l in labels if l != label)]
        pair.sort()
        rows.append({"ids": ids[:tokens - 1] + (1,) if tokens else ids, "label": pair.index(label), "pair": pair})
    rows = spread(rows)
    for i, r in enumerate(rows):
        r["task"] = i % TASKS
    # the choices of a row are those of its "task", of which there are as many as adapters
    for t in range(TASKS):
        pairs.append(next(r["pair"] for r in rows if r["task"] == t))
    for r in rows:
        r.pop("pair")
    two = [[tokenize(pieces, c) for c in pair] for pair in pairs]
    order = list(range(len(rows) // BATCH * BATCH))
    random.Random(4).shuffle(order)
    inputs = {"rows": rows, "dropout": dropout,
              "choices": {"2": two, "train": two, "8": [[tokenize(pieces, c) for c in EIGHT]]},
              "batches": [order[i:i + BATCH] for i in range(0, len(order), BATCH)]}
    with open(path, "w") as f:
        json.dump(inputs, f)
    return inputs
