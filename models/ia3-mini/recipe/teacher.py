"""The teachers: sentence encoders of the BERT family (post-norm, learned positions), from their safetensors file, without gradients."""

import json

import numpy as np
import torch
import torch.nn.functional as F

from t5 import buckets, read
from texts import END


class Teacher:
    """all-MiniLM-L6-v2: BERT with 6 layers. ids are numbers of WordPiece; the first of a row is [CLS], the last [SEP]."""

    NAMES = {"query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
             "out": "attention.output.dense", "norm": "attention.output.LayerNorm"}

    def __init__(self, folder):
        with open(f"{folder}/config.json", encoding="utf-8") as f:
            c = json.load(f)
        self.heads, self.layers, self.d = c["num_attention_heads"], c["num_hidden_layers"], c["hidden_size"]
        self.w = read(f"{folder}/model.safetensors")

    def to(self, device, dtype):
        self.w = {name: t.to(device, dtype) if t.is_floating_point() else t for name, t in self.w.items()}
        return self

    def norm(self, x, name):
        return F.layer_norm(x, (self.d,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-12)

    def linear(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def embed(self, ids):
        w = self.w
        return (w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:ids.shape[1]]
                + w["embeddings.token_type_embeddings.weight"][0])

    def bias(self, keep):
        """What is added to the scores of attention."""
        return torch.where(keep, 0.0, -3e4)[:, None, None, :]

    @torch.no_grad()
    def states(self, ids, keep, sums=None):
        """
        The output of each layer, [rows, tokens, d] each; ids and keep: [rows, tokens]. sums: a list to which what each
        norm reads is appended, as its mean standard deviation over the tokens.
        """
        split = lambda x: x.unflatten(-1, (self.heads, self.d // self.heads)).transpose(1, 2)

        def add(x, y, name):
            if sums is not None:
                sums.append(float((x + y)[keep].std(-1).mean()))
            return self.norm(x + y, name)

        x = self.norm(self.embed(ids), "embeddings.LayerNorm")
        bias, names = self.bias(keep), self.NAMES
        result = []
        for i in range(self.layers):
            p = f"encoder.layer.{i}"
            q, k, v = (split(self.linear(x, f"{p}.{names[name]}")) for name in ("query", "key", "value"))
            y = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype).expand(len(q), self.heads, q.shape[2], k.shape[2]))
            x = add(x, self.linear(y.transpose(1, 2).flatten(2), f"{p}.{names['out']}"), f"{p}.{names['norm']}")
            inner = F.gelu(self.linear(x, f"{p}.intermediate.dense"))
            x = add(x, self.linear(inner, f"{p}.output.dense"), f"{p}.output.LayerNorm")
            result.append(x)
        return result


class MPNet(Teacher):
    """all-mpnet-base-v2: 12 layers, positions from 2 on, and relative positions as T5 has them."""

    NAMES = {"query": "attention.attn.q", "key": "attention.attn.k", "value": "attention.attn.v", "out": "attention.attn.o",
             "norm": "attention.LayerNorm"}

    def embed(self, ids):
        w = self.w
        return w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][2:2 + ids.shape[1]]

    def bias(self, keep):
        at = torch.arange(keep.shape[1], device=keep.device)
        table = self.w["encoder.relative_attention_bias.weight"]
        return super().bias(keep) + table[buckets(at[None, :] - at[:, None], True)].permute(2, 0, 1)


def load(folder):
    with open(f"{folder}/config.json", encoding="utf-8") as f:
        return {"bert": Teacher, "mpnet": MPNet}[json.load(f)["model_type"]](folder)


def pooled(x, keep):
    """The mean over the tokens of a row, of length one: [rows, d]."""
    keep = keep[..., None].float()
    return F.normalize((x.float() * keep).sum(1) / keep.sum(1), dim=-1)


class Aligned:
    """A teacher that reads what the student reads: the same pieces, by the teacher's numbers, after [CLS]."""

    def __init__(self, folder, tokenizer, device="cpu", dtype=torch.float32):
        """tokenizer: the student's, with teacher-ids.npy"""
        self.teacher = load(folder).to(device, dtype)
        self.numbers = torch.from_numpy(np.load(f"{tokenizer}/teacher-ids.npy").astype(np.int64)).to(device)
        with open(f"{folder}/vocab.txt", encoding="utf-8") as f:
            words = f.read().split("\n")
        self.first = words.index("[CLS]")
        assert int(self.numbers[END]) == words.index("[SEP]")

    def states(self, ids, keep):
        """The states of each layer, [rows, tokens, d] each, without [CLS], and the pooled output, which includes it: [rows, d]."""
        numbers = F.pad(self.numbers[ids], (1, 0), value=self.first)
        keep = F.pad(keep, (1, 0), value=True)
        states = self.teacher.states(numbers, keep)
        return [s[:, 1:] for s in states], pooled(states[-1], keep)
