"""A backbone of scripts/bench cpu: its files, the processes that serve it, the limit of its products."""

import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np

import bench_cpu_setup as setup
from bench_cpu_options import DTYPES, RAFT_TOKENS
from bench_cpu_process import Unsupported, Worker, progress

HERE = os.path.dirname(os.path.abspath(__file__))
# largest and mean difference from ia3 in float32 that a mean log-likelihood may have
TOLERANCE = {"float32": (1e-3, 1e-3), "bfloat16": (0.5, 0.05), "int8": (1.0, 0.15)}
MIXED = 4  # times as many rows as the other parts have
# rows with two choices, by tokens of an input; so that a whole run ends within half an hour on two cores without AVX512
ROWS = {"mini": {30: 96, 105: 48, 512: 8}, "small": {30: 48, 105: 24, 512: 4}, "base": {30: 24, 105: 12, 512: 2},
        "large": {30: 6, 105: 2, 512: 1}}


def rows_of(o, name, tokens):
    return o.rows or next((n for most, n in ROWS[name].items() if tokens <= most))


class Shape:
    """A backbone and its inputs, in files. use() says which inputs."""

    def __init__(self, o, name):
        self.o, self.name = o, name
        self.path = f"{HERE}/../models/ia3-mini" if name == "mini" else f"{o.work}/{name}"
        self.tokenizer = f"{self.path}/spiece.model" if name == "mini" else o.tokenizer
        if name != "mini":
            setup.make_checkpoint(self.path, name, self.tokenizer)
        with open(f"{self.path}/config.json") as f:
            self.config = json.load(f)
        self.bytes = 2 * os.path.getsize(f"{self.path}/model.safetensors")  # in float32
        self.adapters = [f"{o.work}/adapters/{name}-{i}" for i in range(setup.TASKS)]
        for i, path in enumerate(self.adapters):
            setup.make_adapter(path, self.config, self.path, i)
        self.scores = f"{o.work}/scores"
        self.converted = None

    def use(self, tokens):
        """Makes the inputs of this length, which are RAFT's rows as they are for RAFT_TOKENS, and names what is measured."""
        self.label = f"{self.name}, {tokens} tokens"
        self.has_goals = (self.name, tokens) == ("base", RAFT_TOKENS)
        self.seconds = self.o.seconds * (3 if self.has_goals else 1)
        self.inputs = f"{self.o.work}/{self.name}-{tokens}.json"
        n = rows_of(self.o, self.name, tokens)
        self.mixed_rows = max(MIXED * n, 2 * setup.TASKS)
        # dropout is always the recipe's 0.1, whatever the checkpoint says
        rows = setup.make_inputs(self.inputs, self.tokenizer, self.o.data, max(self.mixed_rows, 8 * setup.BATCH), 0.1,
                                 None if tokens == RAFT_TOKENS else tokens)["rows"]
        self.mixed_rows = min(self.mixed_rows, len(rows))
        self.lengths = [len(r["ids"]) for r in rows[:n]]

    def rows(self, choices):
        return len(self.lengths) if choices == "2" else max(1, len(self.lengths) // 2)

    def engine(self, dtype, n_adapters=1):
        files = [f"{p}/adapter_model.safetensors" for p in self.adapters[:n_adapters]]
        return Worker(f"ia3 {dtype}",
                      [f"{self.o.build}/bench/bench_engine", "score", "--backbone", self.path, "--choices", "-", "--dtype", dtype,
                       "--threads", str(self.o.threads), self.inputs, *files], f"score 2 1 {self.scores}")

    def torch(self, dtype, attention, adapter="unmerged", n_adapters=1):
        return Worker(f"transformers + peft {dtype} {attention} {adapter}",
                      [sys.executable, f"{HERE}/bench_cpu_torch.py", self.path, dtype, attention, adapter, str(self.o.threads),
                       self.inputs, *self.adapters[:n_adapters]], f"score 2 1 {self.scores} 1024 tokens")

    def ct2(self, dtype, compute, replicas):
        """`compute` is CTranslate2's name of the types, `dtype` that of the stored weights."""
        model = self.convert(f"{dtype}-ct2", "bench_cpu_ct2.py", "convert", self.merged(), "OUT", dtype)
        return Worker(f"CTranslate2 {compute}, {replicas} at once",
                      [sys.executable, f"{HERE}/bench_cpu_ct2.py", "run", model, compute, str(self.o.threads), str(replicas),
                       self.inputs], f"score 2 1 {self.scores} 16 examples")

    def ort(self, dtype, at_once, way):
        reduced = dtype == "int8" and not self.o.instructions.vnni
        model = self.convert(f"{dtype}{'-reduced' if reduced else ''}-onnx", "bench_cpu_onnx.py", self.merged(), "OUT", dtype,
                             *["--reduced"] * reduced)
        return Worker(f"onnxruntime {dtype} {way}, {at_once} at once",
                      [sys.executable, f"{HERE}/bench_cpu_ort.py", model, str(self.o.threads), str(at_once), way,
                       self.inputs], f"score 2 1 {self.scores} 1 row")

    def merged(self):
        """The checkpoint with the first adapter's vectors in its weights."""
        path = f"{self.converted_folder()}/merged"
        if not os.path.exists(f"{path}/spiece.model"):
            setup.merge_checkpoint(self.path, self.adapters[0], path)
        return path

    def convert(self, name, program, *arguments):
        """The folder with a peer's form of the weights, made by a program of this folder unless it is there already."""
        folder = f"{self.converted_folder()}/{name}"
        if not os.path.exists(folder):
            progress(f"converting to {folder}")
            shutil.rmtree(f"{folder}.new", ignore_errors=True)
            os.mkdir(f"{folder}.new")
            words = [f"{folder}.new" if a == "OUT" else a for a in arguments]
            done = subprocess.run([sys.executable, f"{HERE}/{program}", *words], capture_output=True, text=True)
            if done.returncode:
                raise Unsupported(done.stderr.strip().splitlines()[-1])
            os.rename(f"{folder}.new", folder)
        return folder

    def converted_folder(self):
        """Where merged and converted weights are kept, named by a digest of all that they are made from."""
        if self.converted is None:
            digest = hashlib.sha256()
            for path in (f"{self.path}/config.json", f"{self.path}/model.safetensors",
                         f"{self.adapters[0]}/adapter_model.safetensors", f"{HERE}/requirements-cpu.txt",
                         f"{HERE}/bench_cpu_setup.py", f"{HERE}/bench_cpu_ct2.py", f"{HERE}/bench_cpu_onnx.py"):
                with open(path, "rb") as f:
                    digest.update(hashlib.file_digest(f, "sha256").digest())
            self.converted = f"{self.o.work}/{self.name}-converted-{digest.hexdigest()[:16]}"
            os.makedirs(self.converted, exist_ok=True)
            for old in set(glob.glob(f"{self.o.work}/{self.name}-converted-*")) - {self.converted}:
                shutil.rmtree(old)
        return self.converted


def scores_of(worker, command, shape):
    """The answer to a command of scoring, and the scores."""
    answer = worker.ask(command)
    return answer, np.fromfile(shape.scores)


def compare(name, dtype, got, expected):
    """Stops the benchmark with an error if a peer computes something else."""
    largest, mean = TOLERANCE[dtype]
    difference = np.abs(got - expected) if got.shape == expected.shape else np.full(1, np.inf)
    if not difference.max() <= largest or not difference.mean() <= mean:
        sys.exit(f"{name}: scores are not those of ia3 in float32: differences up to {difference.max():.2g}, "
                 f"{difference.mean():.2g} on average")


def limit_seconds(o, dtype, products):
    """What oneDNN needs for the products at its own rate, in seconds. Parts of wide ones are measured: the results of
    a vocabulary product need not be kept."""
    def part(n):
        return n // -(-n // 4096)
    shapes = sorted({(part(k), part(n)) for k, n, _ in products})
    done = subprocess.run([f"{o.build}/bench/bench_onednn", dtype, str(o.threads), *(f"{k}:{n}" for k, n in shapes)],
                          capture_output=True, text=True)
    if done.returncode:
        raise Unsupported(done.stderr.strip())
    rates = {tuple(map(int, l.split()[:2])): float(l.split()[2]) for l in done.stdout.splitlines()}
    return sum(2e-9 * k * n * rows / rates[part(k), part(n)] for k, n, rows in products)


def best(rates, peer, dtype=None):
    """The key (peer, dtype, ...) with the highest rate, None without one."""
    of = {k: r for k, r in rates.items() if k[0] == peer and (dtype is None or k[1] == dtype)}
    return max(of, key=of.get) if of else None


def text(key):
    return " ".join(filter(None, key))


def digits(rate):
    return f"{rate:.{1 if rate >= 10 else 3}f}"


def ratio_row(report, what, rates, ours, theirs, goal=None):
    a, b = rates[ours], rates[theirs]
    report.row(what, f"{digits(a)} / {digits(b)}", a / b, goal)


def ratio_rows(report, at, rates, peer, goal):
    """ia3 against a peer: the fastest type of each, then type by type."""
    ours, theirs = best(rates, "ia3"), best(rates, peer)
    if not ours or not theirs:
        return
    ratio_row(report, at + f"ia3 {ours[1]} / {text(theirs)}", rates, ours, theirs, goal)
    for dtype in DTYPES:
        a, b = best(rates, "ia3", dtype), best(rates, peer, dtype)
        if a and b:
            autocast = " under autocast" if b[2].endswith("autocast") else ""
            ratio_row(report, at + f"both {dtype}: ia3 / {peer}{autocast}", rates, a, b)


def limit_row(shape, report, at, dtype, products, seconds, goal):
    """What ia3 made of the products in these seconds, against oneDNN's rate for them."""
    what = at + f"ia3 {dtype}: share of oneDNN's rate for the products needed"
    why_not = shape.o.instructions.why_not(dtype)
    try:
        limit = None if why_not else limit_seconds(shape.o, dtype, products)
    except Unsupported as e:
        why_not = str(e)
    if why_not:
        report.note(f"{what}: skipped ({why_not})")
        return
    flops = sum(2e-12 * k * n * rows for k, n, rows in products)
    report.row(what, f"{flops / seconds:.3f} TFLOP/s", limit / seconds, goal)
