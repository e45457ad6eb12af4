#!/usr/bin/env python3
"""ia3 against transformers + peft, CTranslate2 and the processor's limit (scripts/bench cpu).

All get the same rows of token ids, the same number of threads and their best batch size, and are run in turn; numbers
are medians. Scores that disagree with ia3's in float32 end the run. Options: bench_cpu_options.py.
"""

import glob
import os

import numpy as np

from bench_cpu_engine import engine_parts
from bench_cpu_mixed import mixed
from bench_cpu_options import arguments
from bench_cpu_process import progress
from bench_cpu_report import Report
from bench_cpu_scoring import scoring
from bench_cpu_shape import HERE, Shape
from bench_cpu_training import training


def intro(o):
    """What the numbers mean, and what was not tried, in paragraphs."""
    return [
        f"{o.threads} threads, medians of {o.runs} runs in turn; a ratio above 1 is in favour of ia3. The first ratio of"
        " each kind, which goals are about, is between the fastest type of either side; below it are the same types.",
        "Peers: transformers + peft with eager attention and sdpa, the vectors merged into the weights (not with many tasks"
        " or in training) or left in the adapter, whatever is faster; int8 is PyTorch's dynamic quantisation of the linear"
        " layers, merged. Batches are of the number of padded input tokens that was fastest on the rows measured, of 512 to"
        " 4096; float32, which takes long, has the number that was fastest in bfloat16 with the same attention. CTranslate2"
        " has merged weights, one batch on all threads or one on each, and the fastest of six batch sizes, float32 those of"
        " int8; it encodes an input for each of its choices.",
        "Of many tasks, transformers + peft is measured in bfloat16, as rows come and sorted by task; the goal is about the"
        " faster order. Not tried: torch.compile, prepacked (frozen) weights and exports of PyTorch, eight bits in PyTorch"
        " other than its own dynamic ones or with unmerged adapters, reusing keys and values of one encoded input between"
        " choices in the peers, another BLAS than PyTorch's own for float32.",
        "The share of oneDNN's rate is the time that oneDNN needs for the products with weights alone, at the best rate it"
        " reaches for their shapes, divided by ia3's. Counted are the products of real tokens, no padding, a choice's"
        " beginning that others share once; for cross-attention one product with the weights of keys and values per input"
        " token, or, where a row's choices are few and ia3 does without keys and values, one per token of the choices."
        " Attention itself, norms, activations and all else count as no time.",
    ]


def main():
    o = arguments()
    os.makedirs(o.work, exist_ok=True)
    report = Report()
    for paragraph in intro(o):
        print(paragraph + "\n", flush=True)
    for name in o.shape:
        progress(f"{name}: makes what is measured")
        shape = Shape(o, name)
        report.note(f"{name}: {len(shape.lengths)} rows of {np.mean(shape.lengths):.0f} tokens on average"
                    f" ({min(shape.lengths)} to {max(shape.lengths)}), many tasks: {len(shape.mixed_lengths)} of"
                    f" {np.mean(shape.mixed_lengths):.0f}; {'RAFT' if glob.glob(f'{o.data}/raft/*') else 'made up'}")
        wide = name == "base" or o.shape == [name]
        if "scoring" in o.only:
            scoring(shape, report)
        if "mixed" in o.only and wide:
            mixed(shape, report)
        if "training" in o.only and wide:
            training(shape, report)
    engine_parts(o, report)
    if o.write:
        report.write(f"{HERE}/../docs/performance.md", intro(o))
    print(f"{report.short} short of their goal" if report.short else "all goals reached")


if __name__ == "__main__":
    main()
