"""Training of the backbone's own weights: all of them (full), or those in a FISH mask (T-Few, src/models/fishmask.py)."""

import numpy as np
import torch

import oracle

KEEP_RATIO = 0.05


def names(base):
    """The tensors in the order in which the engine numbers weights: that of the places in the graph, then tables."""
    def block(stack, i):
        decoder = stack == "decoder"
        at = f"{stack}.block.{i}.layer"
        yield f"{at}.0.layer_norm"
        yield from (f"{at}.0.SelfAttention.{m}" for m in "qkvo")
        if decoder:
            yield f"{at}.1.layer_norm"
            yield from (f"{at}.1.EncDecAttention.{m}" for m in "qkvo")
        ff = f"{at}.{2 if decoder else 1}"
        yield f"{ff}.layer_norm"
        yield from (f"{ff}.DenseReluDense.{m}" for m in (("wi_0", "wi_1") if base.config.is_gated_act else ("wi",)))
        yield f"{ff}.DenseReluDense.wo"
    result = []
    for stack in ("encoder", "decoder"):
        for i in range(len(getattr(base, stack).block)):
            result += [f"{n}.weight" for n in block(stack, i)]
        result.append(f"{stack}.final_layer_norm.weight")
    result += [f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for stack in ("encoder", "decoder")]
    result.append("shared.weight")
    if not base.config.tie_word_embeddings:
        result.append("lm_head.weight")
    return result


def parameters(base):
    """By name, in that order; those that are shared occur once."""
    found = dict(base.named_parameters())
    ordered = {name: found.pop(name) for name in names(base)}
    assert not found
    return ordered


def move(params):
    """Other values than the checkpoint's, which the test computes, too: 15/16, 1 or 17/16 of the weight, in turn."""
    for p in params.values():
        w = p.detach().numpy().astype(np.float32)
        factor = (1 + 0.0625 * (np.arange(w.size) % 3 - 1)).astype(np.float32).reshape(w.shape)
        p.data = torch.from_numpy(w * factor).to(p.dtype)


def mask(model, params, examples):
    """Positions of the weights with the largest Fisher information: T-Few draws 300 examples, each of the ten equally often."""
    sums = torch.zeros(sum(p.numel() for p in params.values()), dtype=torch.float64)
    for example in examples:
        for p in params.values():
            p.grad = None
        oracle.losses(model, [example], "batch")[0].backward()
        sums += torch.cat([p.grad.reshape(-1) for p in params.values()]) ** 2
    kept = int(sums.numel() * KEEP_RATIO)
    return np.sort(torch.topk(sums, kept)[1].numpy())


def split(positions):
    return {"fish_mask.high": positions // 65536, "fish_mask.low": positions % 65536}


def gather(tensors, positions):
    return np.concatenate([np.asarray(t).reshape(-1) for t in tensors])[positions]
