#!/usr/bin/env python3
"""ia3 against transformers + peft, CTranslate2, onnxruntime and the processor's limit (scripts/bench cpu).

All programs get the same rows of token ids, the same number of threads and the batch size that is best for them. They take
turns, and the numbers are medians. If scores disagree with ia3's scores in float32, the benchmark stops with an error.
bench_cpu_options.py has the options.
"""

import glob
import os
import sys

from bench_cpu_engine import engine_parts
from bench_cpu_mixed import mixed
from bench_cpu_options import RAFT_TOKENS, arguments
from bench_cpu_process import Unsupported
from bench_cpu_report import Report
from bench_cpu_scoring import scoring
from bench_cpu_shape import HERE, Shape, rows_of
from bench_cpu_training import training


def intro(o):
    """What the numbers mean, and what was not tried, in paragraphs."""
    rows = "; ".join(f"{name}: {', '.join(f'{rows_of(o, name, t)} of {t} tokens' for t in o.tokens)}" for name in o.shape)
    peers = [
        "transformers + peft runs with eager attention and with sdpa, with the vectors merged into the weights (not for many"
        " tasks or for training). Its int8 is PyTorch's dynamic quantisation of the linear layers. CTranslate2 and onnxruntime"
        " have merged vectors, too, and run one batch on all threads or one on each. CTranslate2 encodes an input again for each"
        " of its choices. onnxruntime runs graphs of encoder and decoder that are made of its own fused operators; its int8 is"
        " dynamic quantisation with weights by channel. It encodes an input once, and its decoder gets that either repeated for"
        " each choice or shared by them, whichever is faster.",
        "Of every peer's attentions, ways and batch sizes the fastest counts, tried on half of the rows. The first length tries"
        " everything, the others try again what was fastest there, with fewer batch sizes. transformers + peft for"
        " many tasks is measured in bfloat16, or in float32 where the processor has no instructions for bfloat16, with the rows"
        " in order of arrival and sorted by task."
        " Not tried: torch.compile, prepacked (frozen) weights of PyTorch; 8-bit types of the peers other than their own dynamic"
        " ones; reusing keys and values for several choices in transformers and CTranslate2; BLAS libraries other than the"
        " peers' own."] if o.peers else []
    return [
        f"{o.threads} threads; each number is the median of {o.runs} runs, or of fewer where a note says so, and the programs take"
        f" turns. Rows with two choices: {rows}; with eight choices half as many. {RAFT_TOKENS} tokens are RAFT's rows as they are,"
        " that long on average; other lengths are exact. A ratio above 1 is in favour of ia3. The first ratio of each kind, the one"
        " with a goal on T5-base's shape and RAFT's rows, compares the fastest data type of either side; the ratios below it"
        " compare equal types.",
        o.instructions.text(),
        *peers,
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
    report = Report(o.minutes)
    for paragraph in intro(o):
        print(paragraph + "\n", flush=True)
    engine_parts(o, report)
    unfinished = []
    for name in o.shape:
        if report.late(name):
            continue
        with report.part(f"{name}: making what is measured"):
            shape = Shape(o, name)
        for part, run in (("scoring", scoring), ("mixed", mixed), ("training", training)):
            if part in o.only and (part != "mixed" or name != "large"):
                try:
                    run(shape, report)
                except Unsupported as e:  # a program has ended while it was measured; what is known is reported all the same
                    report.note(f"{name}, {part}: not finished ({e})")
                    unfinished.append(f"{name}, {part}")
    report.note(f"{'RAFT' if glob.glob(f'{o.data}/raft/*') else 'made-up'} rows; the whole run took"
                f" {report.minutes_taken():.0f} minutes")
    if o.write:
        print(f"written to {report.write(f'{HERE}/results', o.instructions.name, o.shape, intro(o))}")
    if unfinished:
        sys.exit(f"not finished: {'; '.join(unfinished)}")
    print(f"{report.short} short of their goal" if report.short else "all goals reached")


if __name__ == "__main__":
    main()
