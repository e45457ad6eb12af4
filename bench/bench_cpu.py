#!/usr/bin/env python3
"""ia3 against transformers + peft, CTranslate2 and the processor's limit (scripts/bench cpu).

All programs get the same rows of token ids, the same number of threads and the batch size that is best for them. They take
turns, and the numbers are medians. If scores disagree with ia3's scores in float32, the benchmark stops with an error.
bench_cpu_options.py has the options.
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
        f"{o.threads} threads; each number is the median of {o.runs} runs, and the programs take turns. A ratio above 1 is"
        " in favour of ia3. The first ratio of each kind, the one with a goal, compares the fastest data type of either"
        " side; the ratios below it compare equal types.",
        o.instructions.text(),
        "The peers are transformers + peft and CTranslate2. transformers + peft runs with eager attention and with sdpa, and"
        " with the vectors merged into the weights (not for many tasks or for training) or left in the adapter; the fastest"
        " combination counts. Its int8 is PyTorch's dynamic quantisation of the linear layers, with merged vectors. A batch"
        " has a number of padded input tokens: of 512 to 4096 the one that was fastest on the measured rows. float32, which"
        " takes long, uses the number that was fastest in bfloat16 with the same attention. CTranslate2 has merged weights;"
        " it runs one batch on all threads or one batch on each, with the fastest of six batch sizes; float32 uses those of"
        " int8. It encodes an input again for each of its choices.",
        "For many tasks, transformers + peft is measured in bfloat16 (in float32 where bfloat16 is not native), with the rows"
        " in order of arrival and sorted by task. Not tried: torch.compile, prepacked (frozen) weights, exports of PyTorch;"
        " 8-bit types of PyTorch other than its own dynamic ones or with unmerged adapters; reusing the keys and values of"
        " one encoded input for several choices in the peers; BLAS libraries other than PyTorch's own for float32.",
        "The share of oneDNN's rate is the time that oneDNN needs for the matrix products with weights alone, at the best"
        " rate that it reaches for their shapes, divided by ia3's whole time. The products counted are those of real tokens,"
        " without padding; the beginning that several choices share counts once. In cross-attention an input token counts"
        " one product with the weights of keys and values; where a row has few choices and ia3 scores without keys and"
        " values, each token of the choices counts one instead. Attention itself, norms, activations and everything else"
        " count as taking no time.",
    ]


def main():
    o = arguments()
    os.makedirs(o.work, exist_ok=True)
    os.environ.update(o.instructions.environment())
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
        print(f"written to {report.write(f'{HERE}/results', o.instructions.name, o.shape, intro(o))}")
    print(f"{report.short} short of their goal" if report.short else "all goals reached")


if __name__ == "__main__":
    main()
