#!/usr/bin/env python3
"""ia3 against transformers + peft, CTranslate2, onnxruntime and oneDNN's rate (scripts/bench cpu).

All programs get the same rows of token ids, the same number of threads and the batch size that is best for them. They take
turns, and the numbers are medians. If scores disagree with ia3's scores in float32, the benchmark stops with an error.
Progress is reported on standard error. For a quick look: --only scoring --shape base --tokens 105 --runs 1
"""

import argparse
import os

from bench_cpu_isa import NEEDED, Isa

DTYPES = ["float32", "bfloat16", "int8"]
PARTS = ["scoring", "mixed", "training", "adapters", "idle", "agreement"]
PEERS = ["torch", "ct2", "ort"]
SHAPES = ["base", "mini", "large", "small"]
RAFT_TOKENS = 105  # on average; RAFT's rows as they are
MAX_TOKENS = 512
HERE = os.path.dirname(os.path.abspath(__file__))


def some_of(known):
    """A list of words separated by commas, all of them known."""
    def parse(text):
        words = text.split(",")
        if set(words) - set(known):
            raise argparse.ArgumentTypeError(f"known are {', '.join(known)}")
        return words
    return parse


def lengths(text):
    """A list of numbers of tokens, RAFT's first, because what is fastest there is taken for the others."""
    numbers = [int(word) for word in text.split(",")]
    if not all(8 <= n <= MAX_TOKENS for n in numbers):
        raise argparse.ArgumentTypeError(f"a length is between 8 and {MAX_TOKENS}")
    return sorted(set(numbers), key=lambda n: (n != RAFT_TOKENS, numbers.index(n)))


def arguments():
    p = argparse.ArgumentParser(prog="scripts/bench cpu", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", type=some_of(PARTS), default=PARTS, help=f"parts to run: {','.join(PARTS)} (all)")
    p.add_argument("--shape", type=some_of(SHAPES), default=SHAPES[:3],
                   help=f"{','.join(SHAPES)} (all but small): T5-base's, ia3-mini's, T5-large's, T5-small's")
    p.add_argument("--tokens", type=lengths, default=[RAFT_TOKENS, 30, MAX_TOKENS],
                   help=f"lengths of the inputs ({RAFT_TOKENS},30,{MAX_TOKENS}); {RAFT_TOKENS} means RAFT's rows as they are, others are"
                        " cut and put together to exactly so many tokens; many tasks: the first of them")
    p.add_argument("--dtype", type=some_of(DTYPES), default=DTYPES, help=f"data types: {','.join(DTYPES)} (all)")
    p.add_argument("--peers", type=lambda text: some_of(PEERS)(text) if text else [], default=PEERS,
                   help=f"{','.join(PEERS)} (all), or empty for ia3 alone")
    p.add_argument("--rows", type=int,
                   help="rows with two choices, for every shape and length; half as many with eight choices, four times as many"
                        " for many tasks, at least 64 (12 of base and RAFT's length, in proportion for others)")
    p.add_argument("--steps", type=int, default=2, help="steps of a training run (2)")
    p.add_argument("--runs", type=int, default=3, help="number of runs of which the median is taken (3)")
    p.add_argument("--seconds", type=float, default=30,
                   help="time after which no further run of a comparison begins, three times as much where there is a goal (30)")
    p.add_argument("--minutes", type=float, default=27, help="time after which no further part begins (27)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every process (all cores)")
    p.add_argument("--isa", choices=list(NEEDED),
                   help="hold every program to these instructions (default: all that the processor has)")
    p.add_argument("--clock", choices=["seconds", "cpu"], default="seconds",
                   help="cpu: measure the CPU time of all threads, for a rough look on a busy machine with --threads 1")
    p.add_argument("--data", default=os.environ.get("IA3_DATA", ""), help="folder with raft/; without it, random rows are used")
    p.add_argument("--tokenizer", default=f"{HERE}/../test/backbone/spiece.model",
                   help="spiece.model of the random backbones (that of the tests' backbone)")
    p.add_argument("--work", help="folder for checkpoints and scores; kept")
    p.add_argument("--build", help="folder of ia3_engine, bench/bench_engine, bench/bench_onednn")
    p.add_argument("--write", action="store_true", help="also write the table to a new file in bench/results")
    o = p.parse_args()
    try:
        o.instructions = Isa(o.isa, o.build)
    except ValueError as e:
        p.error(str(e))
    return o


if __name__ == "__main__":
    arguments()
