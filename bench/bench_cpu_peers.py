"""The configurations in which scripts/bench cpu tries ia3 and its peers for scoring, in the order in which they are tried."""

from dataclasses import dataclass, field
from typing import Callable

from bench_cpu_options import DTYPES

TORCH, CT2, ORT = "transformers + peft", "CTranslate2", "onnxruntime"
ATTENTIONS = ["eager", "sdpa"]
# batch sizes; the first two are tried again for other lengths
TORCH_SIZES = ["2048 tokens", "512 tokens", "1024 tokens"]
CT2_SIZES = ["8 examples", "2048 tokens", "32 examples"]
ORT_SIZES = ["1 row", "512 tokens", "2048 tokens"]
ORT_WAYS = ["repeated", "shared"]
CT2_TYPES = {"float32": ["float32"], "bfloat16": ["bfloat16"], "int8": ["int8_float32", "int8_bfloat16"]}
LARGE = {"large": "float32 of this shape takes long and much memory; see the smaller shapes"}


@dataclass
class Candidate:
    """key: (peer, dtype, configuration); make() starts a process; why_not: a reason to leave it out."""
    key: tuple
    make: Callable
    sizes: list = field(default_factory=lambda: [""])
    why_not: str | None = None


def kind(key):
    """What is measured once, with its fastest configuration: a peer's type. Both of onnxruntime's ways are measured."""
    return key[:2] + ((key[2].split(",")[0],) if key[0] == ORT else ())


def torch(shape, dtype):
    for attention in ATTENTIONS:
        yield Candidate((TORCH, dtype, f"{attention}, merged"), lambda a=attention: shape.torch(dtype, a, "merged"), TORCH_SIZES)


def ct2(shape, dtype):
    isa = shape.o.instructions
    for compute in CT2_TYPES[dtype]:
        for at_once in sorted({1, shape.o.threads}):
            way = f"{at_once} at once"
            yield Candidate((CT2, dtype, f"as {compute}, {way}" if dtype == "int8" else way),
                            lambda c=compute, n=at_once: shape.ct2(dtype, c, n), CT2_SIZES,
                            isa.why_not("bfloat16") if "bfloat16" in compute else None)


def ort(shape, dtype):
    if dtype == "bfloat16":
        yield Candidate((ORT, dtype, ""), None, why_not="it has no such products on a CPU")
        return
    for way in ORT_WAYS:
        for at_once in sorted({1, shape.o.threads}):
            yield Candidate((ORT, dtype, f"{way}, {at_once} at once"), lambda w=way, n=at_once: shape.ort(dtype, n, w), ORT_SIZES)


def candidates(shape):
    for dtype in shape.o.dtype:
        yield Candidate(("ia3", dtype, ""), lambda d=dtype: shape.engine(d))
    for name, peer, configurations in (("torch", TORCH, torch), ("ct2", CT2, ct2), ("ort", ORT, ort)):
        for dtype in [d for d in reversed(DTYPES) if d in shape.o.dtype and name in shape.o.peers]:
            # a reason for the whole type is given once
            why_not = shape.o.instructions.why_not(dtype) or (LARGE.get(shape.name) if dtype == "float32" else None)
            yield from [Candidate((peer, dtype, ""), None, why_not=why_not)] if why_not else configurations(shape, dtype)
