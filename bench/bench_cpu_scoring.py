"""The scoring part of scripts/bench cpu: one task, two and eight choices.

The configurations of a peer (bench_cpu_peers.py) are tried first, each in a process of its own, with several batch sizes. The
fastest of each data type takes turns with ia3. The first length of input tries everything, except that float32 of CTranslate2
and onnxruntime, which takes long, has the batch sizes of int8. The other lengths try what was fastest there again, short ones
with two batch sizes, long ones with one; large backbones take what was fastest.
"""

from bench_cpu_options import DTYPES
from bench_cpu_peers import CT2, ORT, TORCH, candidates, kind
from bench_cpu_process import Unsupported, fastest, in_turn, progress
from bench_cpu_shape import compare, digits, limit_row, ratio_row, ratio_rows, scores_of, text

CHOICES = ["2", "8"]
# by instructions, peer and choices: ia3's rate against the peer's, each with its best type; T5-base's shape, RAFT's rows
GOALS = {("avx2", TORCH, "2"): 1.5, ("avx2", ORT, "2"): 1.2, ("avx2", CT2, "2"): 1.4,
         ("avx2", TORCH, "8"): 3, ("avx2", ORT, "8"): 3, ("avx2", CT2, "8"): 3,
         ("avx512", TORCH, "2"): 3, ("avx512", ORT, "2"): 1.5, ("avx512", CT2, "2"): 3,
         ("avx512bf16", TORCH, "2"): 3, ("avx512bf16", ORT, "2"): 1.5, ("avx512bf16", CT2, "2"): 3}
LIMIT_GOALS = {"float32": 0.75, "bfloat16": 0.7, "int8": 0.75}
WARM_UP = 2  # rows
TRIED_ROWS = 0.5  # of the rows
LONG = 256  # tokens of an input


class Scoring:
    """A backbone's processes, for one length of input after the other. A key is (peer, dtype, configuration)."""

    def __init__(self, shape, report):
        self.o, self.shape, self.report = shape.o, shape, report
        self.workers, self.sizes = {}, {}
        self.tried = {}  # choices -> key -> (batch size, seconds); of the current length

    def command(self, choices, size, rows=None):
        return f"score {choices} {rows or self.shape.rows(choices)} {self.shape.scores} {size}"

    def start(self, candidate):
        if candidate.why_not:
            self.give_up(candidate.key, candidate.why_not)
            return
        try:
            self.workers[candidate.key] = candidate.make()
            self.sizes[candidate.key] = candidate.sizes
            self.try_out(candidate.key, self.sizes_of(candidate))
        except Unsupported as e:
            self.give_up(candidate.key, e)

    def give_up(self, key, why):
        """Without a process that did not start or has ended."""
        self.report.note(f"{self.shape.name}: {text(key)}: skipped ({why})")
        self.workers.pop(key, None)
        for tried in self.tried.values():
            tried.pop(key, None)

    def try_out(self, key, sizes):
        """Finds the fastest of the batch sizes for the current length."""
        worker = self.workers[key]
        for c in CHOICES:
            rows = max(1, round(TRIED_ROWS * self.shape.rows(c)))
            if rows > WARM_UP:
                worker.ask(self.command(c, sizes[0], WARM_UP))
            took = fastest(sizes, lambda s: worker.ask(self.command(c, s, rows))[self.o.clock])
            size = min(took, key=took.get)
            self.tried[c][key] = size, took[size]
            progress(f"{self.shape.label}, {c} choices: {text(key)}: {took[size]:.2f} s{size and ' with '}{size}")

    def fastest_of(self, choices, keys):
        return min((k for k in self.tried[choices] if k in keys), key=lambda k: self.tried[choices][k][1], default=None)

    def keep_fastest(self, like):
        """Ends the processes of the key's kind that are fastest with neither set of choices."""
        mine = [k for k in self.workers if kind(k) == kind(like)]
        for key in set(mine) - {self.fastest_of(c, mine) for c in CHOICES}:
            self.workers.pop(key).close()

    def go_on(self):
        """Tries on another length what was fastest before."""
        for worker in self.workers.values():
            worker.ask(f"inputs {self.shape.inputs}")
        if self.shape.name == "large":
            return
        self.tried = {c: {} for c in CHOICES}
        for key in list(self.workers):
            try:
                self.try_out(key, self.sizes[key][:1 if min(self.shape.lengths) > LONG else 2])
            except Unsupported as e:
                self.give_up(key, e)

    def sizes_of(self, candidate):
        peer, dtype, _ = candidate.key
        like = [k for k in self.tried["2"] if k[:2] == (peer, "int8")]
        if dtype != "float32" or peer not in (CT2, ORT) or not like:
            return candidate.sizes
        return sorted({self.tried[c][self.fastest_of(c, like)][0] for c in CHOICES})

    def prepare(self):
        """Tries what there is on the first length."""
        self.tried = {c: {} for c in CHOICES}
        for candidate in candidates(self.shape):
            self.start(candidate)
            if candidate.key[0] != TORCH:  # which attention is faster depends on the length
                self.keep_fastest(candidate.key)

    def measured(self, choices):
        """The keys that run with these choices: the fastest of each kind."""
        kinds = dict.fromkeys(map(kind, self.workers))
        return [self.fastest_of(choices, [k for k in self.workers if kind(k) == one]) for one in kinds]

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
        progress(f"{self.shape.label}, {choices} choices: runs in turn")
        seconds, runs = in_turn(self.o.runs, {key: once(key) for key in self.measured(choices)}, self.shape.seconds)
        self.report.runs(f"{self.shape.label}, {choices} choices", runs, self.o.runs)
        reference = scores.get(("ia3", "float32", ""))
        if reference is not None:
            for key in scores:
                compare(text(key), key[1], scores[key], reference)
        return {key: self.shape.rows(choices) / s for key, s in seconds.items()}, products

    def rows(self, choices):
        """Runs and reports one set of choices."""
        shape, report = self.shape, self.report
        rates, products = self.run(choices)
        at = f"{shape.label}, {choices} choices: "
        for key, rate in rates.items():
            size = self.tried[choices][key][0]
            report.row(at + ", ".join(filter(None, (text(key), size))), f"{digits(rate)} rows/s")
        for peer in (TORCH, ORT, CT2):
            ratio_rows(report, at, rates, peer,
                       GOALS.get((self.o.instructions.name, peer, choices)) if shape.has_goals else None)
        self.type_rows(at, rates, choices)
        for dtype in DTYPES:
            key = ("ia3", dtype, "")
            if key in rates:
                # oneDNN's eight-bit products without VNNI are others than ia3's
                has_goal = shape.has_goals and choices == "2" and (dtype != "int8" or self.o.instructions.vnni)
                limit_row(shape, report, at, dtype, products[key], shape.rows(choices) / rates[key],
                          LIMIT_GOALS[dtype] if has_goal else None)

    def type_rows(self, at, rates, choices):
        """ia3's types against each other: smaller weights must not be slower."""
        for dtype in DTYPES[1:]:
            a, b = ("ia3", dtype, ""), ("ia3", "float32", "")
            if a in rates and b in rates:
                ratio_row(self.report, at + f"ia3 {dtype} / float32", rates, a, b, 1 if self.shape.has_goals else None)
        a, b = ("ia3", "int8", ""), ("ia3", "bfloat16", "")
        if a in rates and b in rates and self.o.instructions.native_bfloat16:
            ratio_row(self.report, at + "ia3 int8 / bfloat16", rates, a, b,
                      1.4 if self.shape.has_goals and choices == "2" else None)

    def close(self):
        for key, worker in self.workers.items():
            worker.close()
            self.report.row(f"{self.shape.name}: {text(key)}: memory at most, first answer after",
                            f"{worker.peak / 1e6:.0f} MB, {worker.first_answer:.1f} s")


def scoring(shape, report):
    s = Scoring(shape, report)
    for tokens in shape.o.tokens:
        what = f"{shape.name}, {tokens} tokens, scoring"
        if report.late(what):
            continue
        with report.part(what):
            shape.use(tokens)
            if s.workers:
                s.go_on()
            else:
                s.prepare()
            for choices in CHOICES:
                s.rows(choices)
    s.close()
