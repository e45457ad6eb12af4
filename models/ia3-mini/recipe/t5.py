"""The student: T5's graph (v1.1: no biases, RMS norms before each block, relative positions) with an ungated feed-forward.

Names of weights are those of Hugging Face, so that a state dictionary is a checkpoint. Formulas: Raffel et al., arXiv 1910.10683.
"""

import json
import math
import os
import struct

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 384, "d_kv": 32, "d_ff": 1536,
          "num_heads": 12, "num_layers": 6, "num_decoder_layers": 2, "feed_forward_proj": "gelu", "tie_word_embeddings": True,
          "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "dropout_rate": 0.1,
          "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0, "is_encoder_decoder": True, "use_cache": True,
          "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
MASKED = -1e9
PLACES = 32  # at most so many tokens has a choice


def buckets(positions, both_ways, n=32, furthest=128):
    """The bucket of each relative position (memory minus query): exact when near, logarithmic when far."""
    result = torch.zeros_like(positions)
    if both_ways:
        n //= 2
        result += (positions > 0) * n
        distance = positions.abs()
    else:
        distance = (-positions).clamp(min=0)
    near = n // 2
    far = near + (torch.log(distance.clamp(min=1).float() / near) / math.log(furthest / near) * (n - near)).long()
    return result + torch.where(distance < near, distance, far.clamp(max=n - 1))


def looked_up(table, numbers):
    """table(numbers), as a product: many numbers share a row of a small table, whose gradient would be summed slowly on a GPU."""
    return F.one_hot(numbers, table.num_embeddings).to(table.weight.dtype) @ table.weight


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class Attention(nn.Module):
    """x: [rows, queries, d_model], memory: [rows, keys, d_model], bias: [1 or rows, heads or 1, queries or 1, keys]."""

    scale_k = scale_v = None  # (IA)³'s vectors [heads * d_kv], if any

    def __init__(self, c, relative=False):
        super().__init__()
        self.heads, self.d_kv = c["num_heads"], c["d_kv"]
        inner = self.heads * self.d_kv
        self.q, self.k, self.v = (nn.Linear(c["d_model"], inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, c["d_model"], bias=False)
        if relative:
            self.relative_attention_bias = nn.Embedding(c["relative_attention_num_buckets"], self.heads)

    def split(self, x):
        return x.unflatten(-1, (self.heads, self.d_kv)).transpose(1, 2)

    def forward(self, x, memory, bias):
        k, v = self.k(memory), self.v(memory)
        if self.scale_k is not None:
            k, v = k * self.scale_k, v * self.scale_v
        q, k, v = self.split(self.q(x)), self.split(k), self.split(v)
        bias = bias.to(q.dtype).expand(len(q), self.heads, q.shape[2], k.shape[2])
        return self.o(F.scaled_dot_product_attention(q, k, v, bias, scale=1.0).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    scale = None  # (IA)³'s vector [d_ff], if any

    def __init__(self, c):
        super().__init__()
        self.wi = nn.Linear(c["d_model"], c["d_ff"], bias=False)
        self.wo = nn.Linear(c["d_ff"], c["d_model"], bias=False)

    def forward(self, x):
        h = F.gelu(self.wi(x), approximate="none")
        return self.wo(h if self.scale is None else h * self.scale)


class Sublayer(nn.Module):
    """Norm and attention or feed-forward, under the name that Hugging Face gives it."""

    def __init__(self, c, name, module):
        super().__init__()
        self.layer_norm = Norm(c["d_model"])
        self.name = name
        self.add_module(name, module)

    def forward(self, x, *a):
        return getattr(self, self.name)(x, *a)


class Block(nn.Module):
    def __init__(self, c, decoder, first):
        super().__init__()
        layers = [Sublayer(c, "SelfAttention", Attention(c, first))]
        if decoder:
            layers.append(Sublayer(c, "EncDecAttention", Attention(c)))
        layers.append(Sublayer(c, "DenseReluDense", FeedForward(c)))
        self.layer = nn.ModuleList(layers)


class Stack(nn.Module):
    def __init__(self, c, decoder):
        super().__init__()
        n = c["num_decoder_layers"] if decoder else c["num_layers"]
        self.decoder = decoder
        self.block = nn.ModuleList(Block(c, decoder, i == 0) for i in range(n))
        self.final_layer_norm = Norm(c["d_model"])

    def bias(self, n, keep=None):
        """Relative positions, what is hidden, and what comes later (decoder): [1 or rows, heads, n, n]."""
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias
        at = torch.arange(n, device=table.weight.device)
        relative = at[None, :] - at[:, None]
        bias = looked_up(table, buckets(relative, not self.decoder)).permute(2, 0, 1)[None]
        if self.decoder:
            bias = bias + (relative > 0) * MASKED
        return bias if keep is None else bias + hidden(keep)

    def forward(self, x, bias, memory=None, memory_bias=None, states=None):
        """states: a list to which the output of each block is appended, before the final norm."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):  # once, and not in each attention
            bias, memory_bias = (b if b is None else b.to(torch.get_autocast_dtype(kind)) for b in (bias, memory_bias))
        for block in self.block:
            for layer in block.layer:
                h = layer.layer_norm(x)
                if layer.name == "SelfAttention":
                    x = x + layer(h, h, bias)
                elif layer.name == "EncDecAttention":
                    x = x + layer(h, memory, memory_bias)
                else:
                    x = x + layer(h)
            if states is not None:
                states.append(x)
        return self.final_layer_norm(x)


def hidden(keep):
    """keep: [rows, keys], true where there is a token."""
    return ((~keep) * MASKED)[:, None, None, :]


class T5(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config["vocab_size"], config["d_model"])
        self.encoder, self.decoder = Stack(config, False), Stack(config, True)

    def encode(self, ids, keep, states=None):
        """ids: [rows, tokens], keep: which of them are tokens. The encoder's output, [rows, tokens, d_model]."""
        return self.encoder(self.shared(ids), self.encoder.bias(ids.shape[1], keep), states=states)

    def decode(self, starts, memory, keep):
        """starts: [rows, tokens] with 0 first; memory, keep: an input for each row. States of the decoder, ready for the head."""
        return self.decoder(self.shared(starts), self.decoder.bias(starts.shape[1]), memory, hidden(keep))

    def decode_choices(self, starts, choice, place, memory, keep):
        """
        Several choices for each input, one behind the other. starts: [rows, tokens], 0 first in each choice; choice, place: [rows, tokens],
        which choice a token belongs to, and where in it; memory: [rows, keys, d_model], keep: [rows, keys]. Gives
        [rows, tokens, d_model]. Choices do not see each other; keys and values of an input are computed once.
        """
        table = self.decoder.block[0].layer[0].SelfAttention.relative_attention_bias
        at = torch.arange(PLACES, device=place.device)
        biases = looked_up(table, buckets(at[None, :] - at[:, None], False)).permute(2, 0, 1)  # of queries and keys at each place
        where = F.one_hot(place, PLACES).to(biases.dtype)[:, None]
        bias = where @ biases @ where.transpose(2, 3)
        unseen = (choice[:, None, :] != choice[:, :, None]) | (place[:, None, :] > place[:, :, None])
        bias = bias + (unseen * MASKED)[:, None]
        return self.decoder(self.shared(starts), bias, memory, hidden(keep))

    def logits(self, states, pieces=slice(None)):
        """Of all pieces, or of those given. A tied head scales its input, as T5 v1.0 does."""
        return F.linear(states * self.config["d_model"] ** -0.5, self.shared.weight[pieces])


def new(vocab_size, **changes):
    return T5({**CONFIG, "vocab_size": vocab_size, **changes})


# --- files: bfloat16 safetensors, as the project has them ---

def save(model, folder):
    """config.json and model.safetensors, in bfloat16 rounded to nearest even."""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w") as f:
        json.dump({**model.config, "torch_dtype": "bfloat16"}, f, indent=2)
        f.write("\n")
    tensors = {name: t.detach().to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy() for name, t in model.state_dict().items()}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{folder}/model.safetensors.new", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(t.astype("<i2").tobytes())
    os.replace(f"{folder}/model.safetensors.new", f"{folder}/model.safetensors")


TYPES = {"BF16": ("<u2", torch.bfloat16), "F16": ("<f2", torch.float32), "F32": ("<f4", torch.float32), "I64": ("<i8", torch.int64)}


def read(path):
    """{name: tensor in float32} of a safetensors file."""
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
        data = f.read()
    header.pop("__metadata__", None)
    result = {}
    for name, t in header.items():
        a, b = t["data_offsets"]
        raw, kind = TYPES[t["dtype"]]
        array = np.frombuffer(data[a:b], raw)
        flat = torch.from_numpy(array.astype(np.float32) if raw == "<f2" else array.copy())
        result[name] = (flat.view(torch.bfloat16).float() if kind is torch.bfloat16 else flat).reshape(t["shape"])
    return result


def load(folder):
    with open(f"{folder}/config.json") as f:
        model = T5(json.load(f))
    model.load_state_dict(read(f"{folder}/model.safetensors"))
    return model
