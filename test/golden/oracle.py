"""The reference: transformers' T5 / mT5 / UMT5 with peft's (IA)3, and T-Few's losses.

The models are made from the config and filled with load_state_dict, not with from_pretrained: with an untied config
and a checkpoint without the encoder's embedding, transformers 4.57 leaves that embedding random; and "tied" there
means both "the head is the embedding" and "logits are scaled", which is wrong for mT5.

Expected values come from a float64 run (transformers' own casts to float32 are switched off), rounded to float32 at
the end; generate.py checks that the ordinary float32 run agrees, and records by how much.
"""

import contextlib

import numpy as np
import torch
from peft import IA3Config, get_peft_model
from torch.overrides import TorchFunctionMode
from transformers import (MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration, UMT5Config,
                          UMT5ForConditionalGeneration)

from configs import config_json

CLASSES = {
    "t5": (T5Config, T5ForConditionalGeneration),
    "mt5": (MT5Config, MT5ForConditionalGeneration),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration),
}


class KeepFloat64(TorchFunctionMode):
    """Makes x.float() and x.to(float32) do nothing for float64 tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and args[1] is torch.float32 and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


def precision(dtype):
    return KeepFloat64() if dtype == torch.float64 else contextlib.nullcontext()


def make_base(golden):
    """The bare model of a configuration (random weights; fp32, eager attention, no dropout)."""
    config_class, model_class = CLASSES[golden.config.get("model_type", "t5")]
    config = config_class(**(config_json(golden) | golden.oracle), attn_implementation="eager")
    model = model_class(config).eval()
    assert model.encoder.embed_tokens.weight is model.shared.weight
    assert model.decoder.embed_tokens.weight is model.shared.weight
    return model


def weight_shapes(golden):
    """Shapes of the weights that are stored: no aliases, and no head where the model really shares it."""
    model = make_base(golden)
    shapes = {n: tuple(p.shape) for n, p in model.state_dict().items() if "embed_tokens" not in n}
    if model.config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def fill(model, weights):
    """Copies named arrays into the model; what stays out may only be an alias of what was copied."""
    state = {n: torch.from_numpy(w.astype(np.float32)) for n, w in weights.items()}
    result = model.load_state_dict(state, strict=False)
    aliases = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if model.config.tie_word_embeddings:
        aliases.add("lm_head.weight")
        assert model.lm_head.weight is model.shared.weight
    assert not result.unexpected_keys and set(result.missing_keys) <= aliases, result
    return model


def wrap(model, targets, feedforward):
    config = IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=targets, feedforward_modules=feedforward)
    return get_peft_model(model, config)


def vectors_of(peft_model):
    """{name as peft saves it: parameter}"""
    return {n.replace(".ia3_l.default", ".ia3_l"): p for n, p in peft_model.named_parameters() if ".ia3_l." in n}


def set_vectors(peft_model, values):
    parameters = vectors_of(peft_model)
    assert parameters.keys() == values.keys()
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(torch.from_numpy(values[name]).reshape(p.shape))


def build(golden, weights, vectors, dtype=torch.float32, targets=("k", "v", "wo"), feedforward=("wo",)):
    """The adapted model. In bfloat16 the vectors stay float32, as peft leaves them."""
    model = wrap(fill(make_base(golden), weights).to(dtype), list(targets), list(feedforward))
    set_vectors(model, vectors)
    for p in vectors_of(model).values():
        p.data = p.data.to(torch.float64 if dtype == torch.float64 else torch.float32)
    for n, p in model.named_parameters():
        p.requires_grad_(".ia3_l." in n)
    return model.eval()


def bare(model):
    return model.get_base_model()


class Trace:
    """Collects the intermediate results that the engine can show, by forward hooks."""

    def __init__(self, model):
        self.values = {}
        base = bare(model)
        self.hooks = [base.encoder.final_layer_norm.register_forward_hook(self.keep("encoder.out")),
                      base.decoder.final_layer_norm.register_forward_hook(self.keep("decoder.out"))]
        for side in ("encoder", "decoder"):
            for i, block in enumerate(getattr(base, side).block):
                self.hooks.append(block.register_forward_hook(self.keep(f"{side}.block.{i}")))
        for i, block in enumerate(base.decoder.block):
            cross = block.layer[1].EncDecAttention
            self.hooks.append(cross.k.register_forward_hook(self.keep(f"decoder.cross_k.{i}")))
            self.hooks.append(cross.v.register_forward_hook(self.keep(f"decoder.cross_v.{i}")))

    def keep(self, site):
        def hook(module, args, output):
            x = output[0] if isinstance(output, tuple) else output
            self.values[site] = x.detach().double().numpy().reshape(-1, x.shape[-1])
        return hook

    def close(self):
        for h in self.hooks:
            h.remove()


def encode(model, ids):
    return bare(model).encoder(input_ids=torch.tensor([ids]))[0]


def logprobs(model, encoded, choice):
    """Log-probabilities [len] of a choice's tokens, </s> included, by teacher forcing, nothing padded."""
    base = bare(model)
    hidden = base.decoder(input_ids=torch.tensor([[0] + choice[:-1]]), encoder_hidden_states=encoded)[0]
    if base.config.tie_word_embeddings:
        hidden = hidden * base.model_dim**-0.5
    logits = base.lm_head(hidden)[0]
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    return torch.log_softmax(logits, -1)[torch.arange(len(choice)), torch.tensor(choice)]


def falling(optimizer):
    """The schedule of a training run of a million steps without warm-up, which is the longest that the engine takes."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 1_000_000)


def losses(model, examples, averaging, weights=(1.0, 1.0, 1.0)):
    """T-Few's three losses of a batch without the constant of masked cells, and their weighted sum (tensors).

    averaging "batch": lm over all gold tokens, unlikelihood over all wrong choices' tokens, length-normalised loss
    over the examples. "example": each example's own three means, averaged over the examples.
    """
    lm, wrong, mc = [], [], []
    for ids, choices, label in examples:
        encoded = encode(model, ids)
        lps = [logprobs(model, encoded, c) for c in choices]
        lm.append(-lps[label])
        wrong.append(torch.cat([-torch.log(1 - torch.exp(x) + 0.01) for i, x in enumerate(lps) if i != label]))
        scores = torch.stack([x.mean() for x in lps])
        mc.append(-torch.log_softmax(scores, 0)[label])
    if averaging == "batch":
        parts = torch.cat(lm).mean(), torch.cat(wrong).mean()
    else:
        parts = torch.stack([x.mean() for x in lm]).mean(), torch.stack([x.mean() for x in wrong]).mean()
    parts = parts[0], parts[1], torch.stack(mc).mean()
    return sum(w * p for w, p in zip(weights, parts)), parts


def padded_losses(model, examples):
    """The losses as T-Few's code defines them: one padded batch, encoder states repeated per choice, one number of
    choices, the unlikelihood term summed over masked cells too. Returns lm, unlikelihood with its constant, the
    constant, and the length-normalised loss."""
    n = len(examples[0][1])
    assert all(len(e[1]) == n for e in examples)
    flat = [c for e in examples for c in e[1]]
    width, longest = max(map(len, flat)), max(len(e[0]) for e in examples)
    ids = torch.tensor([e[0] + [0] * (longest - len(e[0])) for e in examples])
    targets = torch.tensor([c + [0] * (width - len(c)) for c in flat])
    gold = torch.tensor([i * n + e[2] for i, e in enumerate(examples)])
    mask = (ids != 0).to(torch.float32)
    base = bare(model)
    encoded = base.encoder(input_ids=ids, attention_mask=mask)[0].repeat_interleave(n, 0)
    shifted = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
    logits = base(attention_mask=mask.repeat_interleave(n, 0), encoder_outputs=[encoded],
                  decoder_input_ids=shifted).logits
    lp = torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    real = targets != 0
    lm = -lp[gold][real[gold]].mean()
    score = (-lp * real).sum(1) / real.sum(1)
    mc = -torch.log_softmax(-score.view(-1, n), 1)[torch.arange(len(examples)), gold % n].mean()
    counted = real.clone()
    counted[gold] = False
    cells = torch.where(counted, lp, torch.full_like(lp, -100.0))
    unlikelihood = -torch.log(1 - torch.exp(cells) + 0.01).sum() / counted.sum()
    constant = -np.log(1.01) * float((~counted).sum()) / float(counted.sum())
    return float(lm), float(unlikelihood), constant, float(mc)


def gradients(model, examples, averaging, weights=(1.0, 1.0, 1.0)):
    """{peft name: gradient of the weighted sum}, and (sum, (lm, unlikelihood, length_norm)) as floats."""
    parameters = vectors_of(model)
    for p in parameters.values():
        p.grad = None
    total, parts = losses(model, examples, averaging, weights)
    total.backward()
    grads = {n: p.grad.double().numpy().copy() for n, p in parameters.items()}
    return grads, (float(total.detach()), tuple(float(p.detach()) for p in parts))
