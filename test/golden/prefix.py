"""Prefix tuning as T-Few's src/models/prefix_tuning.py has it, for methods.py: attentions with keys and values before those of
their input, and the network that these are trained through, with the engine's initial values.
"""

import numpy as np
import torch

LENGTH, HIDDEN, SEED = 2, 512, 3
INIT = 3  # IA3_STREAM_INIT of src/engine/base/rng.h


def mix64(x):
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(counters, below=1 << 31):
    """ia3_draw"""
    with np.errstate(over="ignore"):
        key = mix64(mix64(np.array([SEED], np.uint64)) + np.uint64(INIT))
        bits = mix64(key + counters.astype(np.uint64)) >> np.uint64(32)
    return (bits * np.uint64(below)) >> np.uint64(32)


def normal(begin, n):
    """ia3_draw_normal of the counters from `begin` on"""
    k = np.arange(begin, begin + n, dtype=np.uint64) * np.uint64(2)
    u, v = (draw(k).astype(np.float64) + 1) * 2.0**-31, draw(k + np.uint64(1)).astype(np.float64) * 2.0**-31
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).astype(np.float32)


def uniform(begin, n, limit):
    """ia3_draw_uniform, times the limit"""
    k = np.arange(begin, begin + n, dtype=np.uint64) * np.uint64(2)
    return np.float32(limit) * ((draw(k).astype(np.float64) + 0.5) * 2.0**-30 - 1).astype(np.float32)


def forward(attention, prefix, hidden_states, mask=None, key_value_states=None, position_bias=None, **_):
    """T5AttentionPrefixTuning.forward, without dropout; `prefix` returns [LENGTH, 2·inner]."""
    queries = hidden_states.shape[1]

    def heads(x):
        return x.view(hidden_states.shape[0], -1, attention.n_heads, attention.key_value_proj_dim).transpose(1, 2)

    states = hidden_states if key_value_states is None else key_value_states
    before = prefix().unsqueeze(0).expand(states.shape[0], -1, -1).chunk(2, -1)
    keys = heads(torch.cat([before[0], attention.k(states)], 1))
    values = heads(torch.cat([before[1], attention.v(states)], 1))
    scores = heads(attention.q(hidden_states)) @ keys.transpose(3, 2)
    if position_bias is None:
        n = keys.shape[2]
        if attention.has_relative_attention_bias:
            position_bias = attention.compute_bias(queries + LENGTH, n)[:, :, -queries:, :]
        else:
            position_bias = torch.zeros((1, attention.n_heads, queries, n), dtype=scores.dtype)
        if mask is not None:
            position_bias = position_bias + torch.nn.functional.pad(mask[..., :n - LENGTH], (LENGTH, 0))
    out = torch.softmax(scores + position_bias, -1) @ values
    return attention.o(out.transpose(1, 2).reshape(*hidden_states.shape[:2], -1)), position_bias


def attentions(base):
    """Three groups of (name, module): those that have a network's first layer in common."""
    def of(stack, layer, kind):
        return [(f"{stack}.block.{i}.layer.{layer}.{kind}", getattr(block.layer[layer], kind))
                for i, block in enumerate(getattr(base, stack).block)]
    return [of("encoder", 0, "SelfAttention"), of("decoder", 0, "SelfAttention"), of("decoder", 1, "EncDecAttention")]


def fresh(base):
    """The prefixes of new adapters: what the backbone computes for random tokens, LENGTH of the encoder's and as many of the decoder's."""
    common = min(base.config.vocab_size, 5003) - 3
    ids = 3 + torch.from_numpy(draw(np.arange(2 * LENGTH, dtype=np.uint64) + np.uint64(1 << 40), common).astype(np.int64))
    kept, hooks = {}, []
    for group in attentions(base):
        for name, module in group:
            for part in (module.k, module.v):
                hooks.append(part.register_forward_hook(
                    lambda m, args, out, name=name: kept.setdefault(name, []).append(out[0])))
    with torch.no_grad():
        base(input_ids=ids[None, :LENGTH], decoder_input_ids=ids[None, LENGTH:], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(both, -1).numpy() for name, both in kept.items()}


class Network:
    """The parameters; `outputs` are functions that compute the prefixes, by name."""

    def __init__(self, base, wanted):
        self.parameters, self.outputs = [], {}
        at = 0

        def parameter(values, *shape):
            p = torch.nn.Parameter(torch.from_numpy(values.reshape(shape)).double())
            self.parameters.append(p)
            return p

        d, first, last = base.config.d_model, 1 / np.sqrt(np.float32(base.config.d_model)), 1 / np.sqrt(np.float32(HIDDEN))
        for group in attentions(base):
            embedding = parameter(normal(at, LENGTH * d), LENGTH, d)
            at += LENGTH * d
            weight = parameter(uniform(at, HIDDEN * d, first), HIDDEN, d)
            at += HIDDEN * d
            bias = parameter(uniform(at, HIDDEN, first), HIDDEN)
            at += HIDDEN

            def hidden(embedding=embedding, weight=weight, bias=bias):
                return torch.tanh(torch.nn.functional.linear(embedding, weight, bias))
            for name, module in group:
                out = 2 * module.inner_dim
                w = parameter(uniform(at, out * HIDDEN, last), out, HIDDEN)
                at += out * HIDDEN
                b = parameter(uniform(at, out, last), out)
                at += out
                with torch.no_grad():
                    h = hidden()
                    w += (torch.linalg.solve(h @ h.T, wanted[name] - h @ w.T - b).T @ h)
                self.outputs[name] = lambda hidden=hidden, w=w, b=b: torch.nn.functional.linear(hidden(), w, b)


def set_prefixes(base, outputs):
    for group in attentions(base):
        for name, module in group:
            module.forward = lambda *args, module=module, prefix=outputs[name], **kw: forward(module, prefix, *args, **kw)
