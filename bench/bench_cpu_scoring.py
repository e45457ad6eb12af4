"""The scoring part of scripts/bench cpu: one task, two and eight choices.

A peer's configurations (for transformers: the kind of attention, vectors merged into the weights or not, batch sizes) are
tried first, each in a process of its own, on the rows that will be measured. The fastest configuration of each data type then
takes turns with ia3. CTranslate2 runs with both ways to use the cores.
"""

from bench_cpu_options import DTYPES
from bench_cpu_process import Unsupported, fastest, in_turn, progress
from bench_cpu_shape import compare, limit_row, ratio_row, ratio_rows, scores_of, text

CHOICES = ["2", "8"]
TORCH, CT2 = "transformers + peft", "CTranslate2"
TORCH_BUDGETS = [512, 1024, 2048, 4096]
CT2_BATCHES = ["8 examples", "16 examples", "32 examples", "64 examples", "2048 tokens", "4096 tokens"]
CT2_TYPES = {"float32": ["float32"], "bfloat16": ["bfloat16"], "int8": ["int8_float32", "int8_bfloat16"]}
# by instructions, peer and choices: ia3's rate against the peer's, each with its best type; T5-base's shape
GOALS = {("avx2", TORCH, "2"): 1.5, ("avx2", CT2, "2"): 1.4, ("avx2", TORCH, "8"): 3, ("avx2", CT2, "8"): 3,
         ("avx512", TORCH, "2"): 3, ("avx512", CT2, "2"): 3, ("avx512bf16", TORCH, "2"): 3, ("avx512bf16", CT2, "2"): 3}
LIMIT_GOALS = {"float32": 0.75, "bfloat16": 0.7, "int8": 0.75}
ATTENTIONS = ["eager", "sdpa"]
WARM_UP = 8  # rows


class Scoring:
    """The processes and configurations of the scoring part. A key is (peer, dtype, configuration)."""

    def __init__(self, shape, report):
        self.o, self.shape, self.report = shape.o, shape, report
        self.workers = {}
        self.tried = {c: {} for c in CHOICES}  # key -> (batch size, seconds of a run)

    def command(self, choices, size, rows=None):
        return f"score {choices} {rows or self.shape.rows(choices)} {self.shape.scores} {size}"

    def try_out(self, key, make, sizes):
        """Starts a configuration and finds the fastest of the batch sizes sizes[choices]."""
        why_not = self.o.instructions.why_not("bfloat16") if key[0] != "ia3" and "bfloat16" in text(key) else None
        try:
            if why_not:
                raise Unsupported(why_not)
            worker = self.workers[key] = make()
        except Unsupported as e:
            self.report.note(f"{self.shape.name}: {text(key)}: skipped ({e})")
            return
        for c in CHOICES:
            for size in sizes[c]:
                worker.ask(self.command(c, size, WARM_UP))
            size, seconds = fastest(sizes[c], lambda s: worker.ask(self.command(c, s))[self.o.clock])
            self.tried[c][key] = size, seconds
            progress(f"{text(key)}: {c} choices: {seconds:.2f} s{size and ' with '}{size}")

    def fastest_of(self, choices, keys):
        return min((k for k in self.tried[choices] if k in keys), key=lambda k: self.tried[choices][k][1], default=None)

    def keep_fastest(self, peer, dtype):
        """Ends the processes that are fastest with neither set of choices."""
        mine = [k for k in self.workers if k[:2] == (peer, dtype)]
        for key in set(mine) - {self.fastest_of(c, mine) for c in CHOICES}:
            self.workers.pop(key).close()

    def sizes_of(self, key):
        return {c: [self.tried[c][key][0]] for c in CHOICES}

    def try_torch(self, dtype):
        """All batch sizes with merged weights; the best of them with an adapter, which only adds to the work."""
        for attention in ATTENTIONS:
            key = TORCH, dtype, f"{attention}, merged"
            self.try_out(key, lambda: self.shape.torch(dtype, attention, "merged"), dict.fromkeys(CHOICES, TORCH_BUDGETS))
            if key in self.workers and dtype != "int8":
                self.try_out((TORCH, dtype, f"{attention}, unmerged"), lambda: self.shape.torch(dtype, attention, "unmerged"),
                             self.sizes_of(key))
            self.keep_fastest(TORCH, dtype)

    def try_torch_like(self, dtype, other):
        """Each attention as it was fastest in another type; for a type that takes long."""
        for attention in ATTENTIONS:
            like = self.fastest_of("2", [(TORCH, other, f"{attention}, {a}") for a in ("merged", "unmerged")])
            if like:
                self.try_out((TORCH, dtype, like[2]), lambda: self.shape.torch(dtype, *like[2].split(", ")),
                             self.sizes_of(like))
                self.keep_fastest(TORCH, dtype)

    def try_ct2(self, dtype):
        """float32, which takes long, has the batch sizes of int8 where that was tried before."""
        for compute in CT2_TYPES[dtype]:
            for replicas in sorted({1, self.o.threads}):
                way = f"{replicas} at once"
                key = CT2, dtype, f"as {compute}, {way}" if dtype == "int8" else way
                like = CT2, "int8", f"as int8_float32, {way}"
                known = self.sizes_of(like) if dtype == "float32" and like in self.tried["2"] else None
                self.try_out(key, lambda: self.shape.ct2(dtype, compute, replicas),
                             known or dict.fromkeys(CHOICES, CT2_BATCHES))

    def try_all(self):
        for dtype in self.o.dtype:
            self.try_out(("ia3", dtype, ""), lambda: self.shape.engine(dtype), dict.fromkeys(CHOICES, [""]))
        if "torch" in self.o.peers:
            self.try_torch("bfloat16")
            first = "bfloat16" if any(k[:2] == (TORCH, "bfloat16") for k in self.workers) else "float32"
            if first == "bfloat16":
                self.try_torch_like("float32", first)
            else:
                self.try_torch("float32")
            self.try_torch("int8")
            unmerged = [k for k in self.tried["2"] if k[:2] == (TORCH, first) and k[2].endswith("unmerged")]
            if unmerged:
                self.shape.attention = self.fastest_of("2", unmerged)[2].split(",")[0]
        if "ct2" in self.o.peers:
            for dtype in reversed([d for d in DTYPES if d in self.o.dtype]):
                self.try_ct2(dtype)

    def measured(self, choices):
        """The keys that run with these choices: of transformers + peft the fastest of each type."""
        torch = {self.fastest_of(choices, [k for k in self.workers if k[:2] == (TORCH, d)]) for d in DTYPES}
        return [k for k in self.workers if k[0] != TORCH or k in torch]

    def run(self, choices):
        """Rows per second and matrix products (ia3) by key."""
        scores, products = {}, {}

        def once(key):
            def measure():
                command = self.command(choices, self.tried[choices][key][0])
                answer, scores[key] = scores_of(self.workers[key], command, self.shape)
                products[key] = answer.get("products")
                return answer[self.o.clock]
            return measure
        progress(f"{self.shape.name}, {choices} choices: runs in turn")
        seconds = in_turn(self.o.runs, {key: once(key) for key in self.measured(choices)})
        reference = scores.get(("ia3", "float32", ""))
        if reference is not None:
            for key in scores:
                compare(text(key), key[1], scores[key], reference)
        return {key: self.shape.rows(choices) / s for key, s in seconds.items()}, products

    def close(self):
        for key, worker in self.workers.items():
            worker.close()
            self.report.row(f"{self.shape.name}: {text(key)}: memory at most, first answer after",
                            f"{worker.peak / 1e6:.0f} MB, {worker.first_answer:.1f} s")


def limit_rows(shape, report, at, rates, products, choices):
    isa = shape.o.instructions
    for dtype in DTYPES:
        key = ("ia3", dtype, "")
        if key in rates:
            # oneDNN's eight-bit products without VNNI are others than ia3's
            goal = LIMIT_GOALS[dtype] if (shape.name, choices) == ("base", "2") and (dtype != "int8" or isa.vnni) else None
            limit_row(shape, report, at, dtype, products[key], shape.rows(choices) / rates[key], goal)


def type_rows(shape, report, at, rates):
    """ia3's types against float32: smaller weights must not be slower."""
    base = shape.name == "base"
    for dtype in DTYPES[1:]:
        a, b = ("ia3", dtype, ""), ("ia3", "float32", "")
        if a in rates and b in rates:
            ratio_row(report, at + f"ia3 {dtype} / float32", rates, a, b, 1 if base else None)
    a, b = ("ia3", "int8", ""), ("ia3", "bfloat16", "")
    if a in rates and b in rates and shape.o.instructions.native_bfloat16:
        ratio_row(report, at + "ia3 int8 / bfloat16", rates, a, b, 1.4 if base and "2 choices" in at else None)


def scoring(shape, report):
    base = shape.name == "base"
    s = Scoring(shape, report)
    s.try_all()
    for choices in CHOICES:
        rates, products = s.run(choices)
        at = f"{shape.name}, {choices} choices: "
        for key, rate in rates.items():
            size = s.tried[choices][key][0]
            size = f"{size} tokens" if key[0] == TORCH else size
            report.row(at + ", ".join(filter(None, (text(key), size))), f"{rate:.1f} rows/s")
        for peer in (TORCH, CT2):
            ratio_rows(report, at, rates, peer, GOALS.get((shape.o.instructions.name, peer, choices)) if base else None)
        type_rows(shape, report, at, rates)
        limit_rows(shape, report, at, rates, products, choices)
    s.close()
