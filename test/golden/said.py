"""Intrinsic SAID as T-Few's src/models/intrinsic.py has it, for methods.py: projections of one vector, with the engine's random
numbers (src/engine/model/methods/said_projection.c).
"""

import numpy as np
import torch

from prefix import mix64

DIM = 200
SEED = 0x5341494400000000
SIGNS, PERMUTATION, GAUSS = 1, 2, 3


def draw(module, stream, counters, below):
    """ia3_draw; `below` may be an array"""
    with np.errstate(over="ignore"):
        key = mix64(mix64(np.array([SEED + module], np.uint64)) + np.uint64(stream))
        bits = mix64(key + counters.astype(np.uint64)) >> np.uint64(32)
    return ((bits * np.asarray(below, np.uint64)) >> np.uint64(32)).astype(np.int64)


def hadamard(size):
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    return h


def projection(module, length):
    """The matrix [length, size] that Fastfood multiplies by, dense."""
    size = 1 << int(np.ceil(np.log2(length)))
    i = np.arange(size)
    signs = 2 * draw(module, SIGNS, i, 2) - 1
    u, v = draw(module, GAUSS, 2 * i, 1 << 31), draw(module, GAUSS, 2 * i + 1, 1 << 31)
    gauss = np.sqrt(-2 * np.log((u + 1) * 2.0**-31)) * np.cos(2 * np.pi * v * 2.0**-31)
    gauss = gauss.astype(np.float32).astype(np.float64)
    order, others = np.arange(size), draw(module, PERMUTATION, i, i + 1)
    for k in range(size - 1, 0, -1):
        order[[k, others[k]]] = order[[others[k], k]]
    h = hadamard(size)
    dense = h @ (gauss[:, None] * (h * signs)[order])
    divisor = np.sqrt(size * (gauss**2).sum())
    return torch.from_numpy(dense[:length] / (divisor * np.sqrt(length / size)))


def modules(base):
    """Names of the modules in the engine's order."""
    names = []
    for stack, cross in (("encoder", False), ("decoder", True)):
        for i, block in enumerate(getattr(base, stack).block):
            at = f"{stack}.block.{i}.layer"
            for layer, kind in enumerate(["SelfAttention"] + ["EncDecAttention"] * cross):
                names += [f"{at}.{layer}.layer_norm"] + [f"{at}.{layer}.{kind}.{x}" for x in "qkvo"]
            last = len(block.layer) - 1
            names.append(f"{at}.{last}.layer_norm")
            names += [f"{at}.{last}.DenseReluDense.{x}" for x in ("wi", "wi_0", "wi_1", "wo")
                      if hasattr(block.layer[last].DenseReluDense, x)]
        names.append(f"{stack}.final_layer_norm")
    return names


def result(x, matrix):
    """IntrinsicDimensionLight: x is padded or cut."""
    return matrix[:, :len(x)] @ x[:matrix.shape[1]]


def change(base, x, factors):
    """Hooks that change linear layers and norms; T-Few changes their weights."""
    def linear(number, matrix):
        def hook(module, args, y):
            r = result(x, matrix)
            out = module.out_features
            return y + (args[0] @ r[out:]).unsqueeze(-1) * (factors[number] * r[:out])
        return hook

    def norm(number, matrix):
        return lambda module, args, y: y * (1 + factors[number] * result(x, matrix))

    found = dict(base.named_modules())
    for number, name in enumerate(modules(base)):
        module = found[name]
        if name.endswith("layer_norm"):
            module.register_forward_hook(norm(number, projection(number, len(module.weight))))
        else:
            matrix = projection(number, module.out_features + module.in_features)
            module.register_forward_hook(linear(number, matrix))


def parameters(base):
    n = len(modules(base))
    return {"intrinsic_parameter": torch.nn.Parameter(torch.zeros(DIM - n - 1, dtype=torch.float64)),
            "intrinsic_parameter_said": torch.nn.Parameter(torch.ones(n, dtype=torch.float64))}
