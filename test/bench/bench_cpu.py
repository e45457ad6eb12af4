#!/usr/bin/env python3
"""ia3 against transformers + peft, CTranslate2 and the processor's limit (scripts/bench cpu).

All get the same rows of token ids, the same number of threads and their best batch size, and are run in turn; numbers
are medians. Scores that disagree with ia3's in float32 end the run. Options: bench_cpu_options.py.
"""

import glob
import json
import os
import subprocess
import sys

import numpy as np

import bench_cpu_setup as setup
from bench_cpu_engine import engine_parts
from bench_cpu_options import DTYPES, arguments
from bench_cpu_process import Unsupported, Worker, fastest, in_turn
from bench_cpu_report import Report

HERE = os.path.dirname(os.path.abspath(__file__))
# largest and mean difference from ia3 in float32 that a mean log-likelihood may have
TOLERANCE = {"float32": (1e-3, 1e-3), "bfloat16": (0.5, 0.05), "int8": (1.0, 0.15)}
TORCH_BUDGETS = [512, 1024, 2048, 4096]
CT2_BATCHES = ["8 examples", "16 examples", "32 examples", "2048 tokens"]


class Shape:
    """A backbone and what is asked of it, in files."""

    def __init__(self, o, name):
        self.o, self.name = o, name
        self.path = f"{HERE}/../../models/ia3-mini" if name == "mini" else f"{o.work}/{name}"
        tokenizer = f"{self.path}/spiece.model" if name == "mini" else o.tokenizer
        if name != "mini":
            setup.make_checkpoint(self.path, name, tokenizer)
        with open(f"{self.path}/config.json") as f:
            config = json.load(f)
        self.inputs = f"{o.work}/{name}.json"
        # dropout is the recipe's 0.1 whatever the checkpoint says
        rows = setup.make_inputs(self.inputs, tokenizer, o.data, max(o.rows, 8 * setup.BATCH), 0.1)["rows"]
        self.lengths = [len(r["ids"]) for r in rows[:o.rows]]
        self.adapters = [f"{o.work}/adapters/{name}-{i}" for i in range(setup.TASKS)]
        for i, path in enumerate(self.adapters):
            setup.make_adapter(path, config, self.path, i)
        self.merged = f"{o.work}/{name}-merged"
        self.scores = f"{o.work}/scores"

    def rows(self, choices):
        return self.o.rows if choices == "2" else max(1, self.o.rows // 2)

    def engine(self, dtype, n_adapters=1):
        files = [f"{p}/adapter_model.safetensors" for p in self.adapters[:n_adapters]]
        return Worker(f"ia3 {dtype}", [f"{self.o.build}/bench/bench_engine", "score", "--backbone", self.path, "--choices", "-",
                                       "--dtype", dtype, "--threads", str(self.o.threads), self.inputs, *files],
                      f"score 2 1 {self.scores}")

    def torch(self, dtype, attention, n_adapters=1):
        return Worker(f"transformers + peft {attention} {dtype}",
                      [sys.executable, f"{HERE}/bench_cpu_torch.py", self.path, dtype, attention, str(self.o.threads), self.inputs,
                       *self.adapters[:n_adapters]], f"score 2 1 {self.scores} 1024")

    def ct2(self, dtype, replicas):
        model = f"{self.o.work}/{self.name}-ct2-{dtype}"
        if not os.path.exists(f"{model}/model.bin"):
            if not os.path.exists(f"{self.merged}/model.safetensors"):
                setup.merge_checkpoint(self.path, self.adapters[0], self.merged)
            done = subprocess.run([sys.executable, f"{HERE}/bench_cpu_ct2.py", "convert", self.merged, model, dtype],
                                  capture_output=True, text=True)
            if done.returncode:
                raise Unsupported(done.stderr.strip().splitlines()[-1])
        return Worker(f"CTranslate2 {dtype}", [sys.executable, f"{HERE}/bench_cpu_ct2.py", "run", model, dtype,
                                               str(self.o.threads), str(replicas), self.inputs],
                      f"score 2 1 {self.scores} 16 examples")


def scores_of(worker, command, shape):
    """Seconds of a command of scoring, and its scores."""
    answer = worker.ask(command)
    return answer, np.fromfile(shape.scores)


def compare(name, dtype, got, expected):
    """Ends the run when a peer computes something else."""
    largest, mean = TOLERANCE[dtype]
    difference = np.abs(got - expected)
    if got.shape != expected.shape or not difference.max() <= largest or not difference.mean() <= mean:
        sys.exit(f"{name}: scores are not those of ia3 in float32: differences up to {difference.max():.2g}, "
                 f"{difference.mean():.2g} on average")
    return difference.max()


def limit_seconds(o, dtype, products):
    """What oneDNN needs for the products at its own rate, in seconds. Parts of wide ones are measured: the results of
    a vocabulary product need not be kept."""
    def part(n):
        return n // -(-n // 4096)
    shapes = sorted({(part(k), part(n)) for k, n, _ in products})
    done = subprocess.run([f"{o.build}/bench/bench_onednn", dtype, str(o.threads), *(f"{k}:{n}" for k, n in shapes)],
                          capture_output=True, text=True, check=True)
    rates = {tuple(map(int, l.split()[:2])): float(l.split()[2]) for l in done.stdout.splitlines()}
    return sum(2e-9 * k * n * rows / rates[part(k), part(n)] for k, n, rows in products)


class Scoring:
    """The processes of the scoring part and what was measured, by choices and configuration."""

    def __init__(self, shape, report):
        self.o, self.shape, self.report = shape.o, shape, report
        self.workers = {}  # (peer, dtype, detail) -> (worker, batch)
        self.seconds = {}

    def start(self, key, make):
        try:
            self.workers[key] = make()
        except Unsupported as e:
            self.report.note(f"{key[0]} {key[1]}: skipped ({e})")

    def start_all(self):
        for dtype in self.o.dtype:
            self.start(("ia3", dtype, ""), lambda: self.shape.engine(dtype))
        if "torch" in self.o.peers:
            for dtype in DTYPES[:2]:
                for attention in ("eager", "sdpa"):
                    self.start(("transformers + peft", dtype, attention), lambda: self.shape.torch(dtype, attention))
        if "ct2" in self.o.peers:
            for dtype in self.o.dtype:
                for replicas in sorted({1, self.o.threads}):
                    self.start(("CTranslate2", dtype, f"{replicas} at once"), lambda: self.shape.ct2(dtype, replicas))

    def command(self, key, choices, batch, rows=None):
        return f"score {choices} {rows or self.shape.rows(choices)} {self.shape.scores} {batch}"

    def best_batch(self, key, choices):
        o = self.o
        candidates = {"ia3": [""], "transformers + peft": TORCH_BUDGETS, "CTranslate2": CT2_BATCHES}[key[0]]
        rows = max(16, self.shape.rows(choices) // 4)
        return fastest(candidates, lambda b: self.workers[key].ask(self.command(key, choices, b, rows))[o.clock])

    def run(self, choices):
        o, shape = self.o, self.shape
        batches = {key: self.best_batch(key, choices) for key in self.workers}
        # of CTranslate2's ways to use the cores, the faster one
        for dtype in DTYPES:
            ways = [k for k in batches if k[:2] == ("CTranslate2", dtype)]
            ask = lambda k: self.workers[k].ask(self.command(k, choices, batches[k]))[o.clock]
            for slower in sorted(ways, key=ask)[1:] if len(ways) > 1 else []:
                del batches[slower]
        scores, products = {}, {}

        def once(key):
            def measure():
                answer, scores[key] = scores_of(self.workers[key], self.command(key, choices, batches[key]), self.shape)
                products[key] = answer.get("products")
                return answer[shape.o.clock]
            return measure
        seconds = in_turn(self.o.runs, {key: once(key) for key in batches})
        reference = scores.get(("ia3", "float32", ""))
        if reference is not None:
            for key in batches:
                compare(" ".join(key), key[1], scores[key], reference)
        rates = {key: self.shape.rows(choices) / s for key, s in seconds.items()}
        return rates, seconds, products

    def close(self):
        for worker in self.workers.values():
            worker.close()


def best(rates, peer, dtype=None):
    of = {k: r for k, r in rates.items() if k[0] == peer and (dtype is None or k[1] == dtype)}
    return max(of, key=of.get) if of else None


def scoring(shape, report):
    o = shape.o
    s = Scoring(shape, report)
    s.start_all()
    for choices in ("2", "8"):
        rates, seconds, products = s.run(choices)
        at = f"{shape.name}, {choices} choices: "
        for key, rate in rates.items():
            report.row(at + " ".join(filter(None, key)), f"{rate:.1f} rows/s")
        ours, torch, ct2 = best(rates, "ia3"), best(rates, "transformers + peft"), best(rates, "CTranslate2")
        goals = {"2": 5, "8": 10} if shape.name == "base" else {}
        if torch:
            report.row(at + f"ia3 {ours[1]} / transformers + peft ({torch[2]} {torch[1]})",
                       f"{rates[ours]:.1f} / {rates[torch]:.1f}", rates[ours] / rates[torch], goals.get(choices))
        if ct2:
            goal = 1.5 if shape.name == "base" else None
            report.row(at + f"ia3 {ours[1]} / CTranslate2 ({ct2[1]})", f"{rates[ours]:.1f} / {rates[ct2]:.1f}",
                       rates[ours] / rates[ct2], goal)
            for dtype in DTYPES:
                a, b = best(rates, "ia3", dtype), best(rates, "CTranslate2", dtype)
                if a and b:
                    report.row(at + f"{dtype}: ia3 / CTranslate2", f"{rates[a]:.1f} / {rates[b]:.1f}",
                               rates[a] / rates[b], goal)
        a, b = best(rates, "ia3", "int8"), best(rates, "ia3", "bfloat16")
        if a and b:
            report.row(at + "ia3 int8 / bfloat16", f"{rates[a]:.1f} / {rates[b]:.1f}", rates[a] / rates[b],
                       1.4 if shape.name == "base" and choices == "2" else None)
        for dtype in DTYPES:
            key = ("ia3", dtype, "")
            if key in seconds:
                flops = sum(2e-12 * k * n * r for k, n, r in products[key])
                share = limit_seconds(o, dtype, products[key]) / seconds[key]
                goal = 0.7 if (shape.name, dtype, choices) == ("base", "bfloat16", "2") else None
                report.row(at + f"{dtype}: share of oneDNN's rate for the same products",
                           f"{flops / seconds[key]:.3f} TFLOP/s", share, goal)
    s.close()
    for (peer, dtype, detail), worker in s.workers.items():
        report.row(f"{shape.name}: {' '.join(filter(None, (peer, dtype, detail)))}: memory at most, first answer after",
                   f"{worker.peak / 1e6:.0f} MB, {worker.first_answer:.1f} s")


def mixed(shape, report):
    """32 adapters, rows in the order they came; the peer also with the rows of a task brought together."""
    n = shape.rows("2")
    workers = {}
    for dtype in shape.o.dtype:
        try:
            workers["ia3", dtype, "arrival"] = shape.engine(dtype, setup.TASKS)
        except Unsupported:
            pass
    if "torch" in shape.o.peers:
        peer = shape.torch("bfloat16", "sdpa", setup.TASKS)
        for order in ("arrival", "task"):
            workers["transformers + peft", "bfloat16", order] = peer
    scores = {}

    def once(key):
        def measure():
            more = "" if key[0] == "ia3" else f"4096 {key[2]}"
            answer, scores[key] = scores_of(workers[key], f"mixed 2 {n} {shape.scores} {more}", shape)
            return answer[shape.o.clock]
        return measure
    measures = {key: once(key) for key in workers}
    for m in measures.values():
        m()
    rates = {key: n / s for key, s in in_turn(shape.o.runs, measures).items()}
    at = f"{shape.name}, {setup.TASKS} tasks mixed: "
    for key, rate in rates.items():
        if ("ia3", "float32", "arrival") in scores:
            compare(" ".join(key), key[1], scores[key], scores["ia3", "float32", "arrival"])
        report.row(at + f"{key[0]} {key[1]}" + (" (sorted by task)" if key[2] == "task" else ""), f"{rate:.1f} rows/s")
    ours = best(rates, "ia3")
    for order in ("arrival", "task"):
        theirs = ("transformers + peft", "bfloat16", order)
        if theirs in rates:
            report.row(at + "ia3 / peft switching adapters" + (" once per task" if order == "task" else ""),
                       f"{rates[ours]:.1f} / {rates[theirs]:.1f}", rates[ours] / rates[theirs],
                       10 if order == "arrival" and shape.name == "base" else None)
    for worker in set(workers.values()):
        worker.close()


def training(shape, report):
    o = shape.o
    workers, modes, losses = {}, {}, {}
    for dtype in o.dtype:
        if dtype != "int8":
            workers["ia3", dtype, ""] = shape.engine(dtype)
    if "torch" in o.peers:
        for dtype in DTYPES[:2]:
            for attention in ("eager", "sdpa"):
                workers["transformers + peft", dtype, attention] = shape.torch(dtype, attention)
    took = {}
    for key, worker in workers.items():
        def step(mode):
            seconds = worker.ask(f"train 1 0.1 - {mode}")[o.clock]
            took[key] = min(took.get(key, seconds), seconds)
            return seconds
        modes[key] = fastest(["plain"] if key[0] == "ia3" else ["plain", "autocast"], step)
    for dtype in DTYPES[:2]:  # of the peer's implementations of attention, the faster one
        ways = [k for k in workers if k[:2] == ("transformers + peft", dtype)]
        for slower in sorted(ways, key=took.get)[1:]:
            workers.pop(slower).close()
    for key, worker in workers.items():
        # without dropout all compute the same: the losses of the third step have to agree
        losses[key] = worker.ask("train 3 0 - plain")["loss"]
    reference = losses.get(("ia3", "float32", ""))
    for key, loss in losses.items():
        if reference is not None and not abs(loss - reference) <= (1e-4 if key[1] == "float32" else 1e-2) * abs(reference):
            sys.exit(f"{' '.join(key)}: the loss of the third step is {loss}, ia3's in float32 {reference}")
    answers = {}

    def once(key):
        def measure():
            answers[key] = workers[key].ask(f"train {o.steps} 0.1 - {modes[key]}")
            return answers[key][o.clock]
        return measure
    seconds = in_turn(o.runs, {key: once(key) for key in workers})
    rates = {key: o.steps / s for key, s in seconds.items()}
    at = f"{shape.name}, training, batch {setup.BATCH}: "
    for key, rate in rates.items():
        mode = " autocast" if modes[key] == "autocast" else ""
        report.row(at + " ".join(filter(None, key)) + mode, f"{rate:.3f} steps/s")
    ours, theirs = best(rates, "ia3"), best(rates, "transformers + peft")
    if theirs:
        report.row(at + f"ia3 {ours[1]} / transformers + peft ({theirs[2]} {theirs[1]})",
                   f"{rates[ours]:.3f} / {rates[theirs]:.3f}", rates[ours] / rates[theirs], 2 if shape.name == "base" else None)
    for dtype in DTYPES[:2]:
        key = ("ia3", dtype, "")
        if key in seconds:
            share = limit_seconds(o, dtype, answers[key]["products"]) / seconds[key]
            report.row(at + f"{dtype}: share of oneDNN's rate for the same products",
                       f"{answers[key]['flops'] / seconds[key] / 1e12:.3f} TFLOP/s", share,
                       0.6 if (shape.name, dtype) == ("base", "bfloat16") else None)
    for key, worker in workers.items():
        worker.close()
        report.row(at + f"{' '.join(filter(None, key))}: memory at most", f"{worker.peak / 1e6:.0f} MB")


def main():
    o = arguments()
    os.makedirs(o.work, exist_ok=True)
    report = Report()
    for name in o.shape:
        shape = Shape(o, name)
        report.note(f"{name}: {len(shape.lengths)} rows of {np.mean(shape.lengths):.0f} tokens on average"
                    f" ({min(shape.lengths)} to {max(shape.lengths)}), {'RAFT' if glob.glob(f'{o.data}/raft/*') else 'made up'}")
        if "scoring" in o.only:
            scoring(shape, report)
        if "mixed" in o.only and name == "base":
            mixed(shape, report)
        if "training" in o.only and name == "base":
            training(shape, report)
    engine_parts(o, report)
    if o.write:
        intro = [f"{o.threads} threads, medians of {o.runs} runs in turn, every peer with its best batch size; a ratio above 1"
                 " is in favour of ia3."]
        report.write(f"{HERE}/../../docs/performance.md", intro)
    print(f"{report.short} short of their goal" if report.short else "all goals reached")


if __name__ == "__main__":
    main()
