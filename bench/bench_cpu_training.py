"""The training part of scripts/bench cpu: steps of the recipe on the same batches."""

import sys

import bench_cpu_setup as setup
from bench_cpu_options import DTYPES
from bench_cpu_peers import ATTENTIONS, TORCH
from bench_cpu_process import Unsupported, fastest, in_turn, progress
from bench_cpu_shape import digits, limit_row, ratio_rows, text

# largest relative difference of the loss from ia3's in float32
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
LIMIT_GOALS = {"float32": 0.65, "bfloat16": 0.6}
GOALS = {"avx2": 3}  # against transformers + peft, by instructions
# memory beside the weights, in bytes for a token of a batch, an element of d_model and a layer of either stack
BYTES = {("ia3", "float32"): 60, ("ia3", "bfloat16"): 30, (TORCH, "float32"): 300, (TORCH, "bfloat16"): 200}
CHECKED_STEPS = 2
LONG = 256  # tokens of an input, with which these shapes are not trained
TOO_LONG = {"ia3": ["large"], TORCH: ["base", "large"]}


def available_memory():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable:"))


class Training:
    """The processes of a backbone's training part, for one length of input after the other. A key is (peer, dtype, attention)."""

    def __init__(self, shape, report):
        self.o, self.shape, self.report = shape.o, shape, report
        self.workers, self.modes = {}, {}
        self.chosen = {}  # key -> mode; for the current length

    def skip(self, what, why):
        self.report.note(f"{self.shape.label}, training: {what}: skipped ({why})")

    def why_not(self, key):
        """A reason not to train in this configuration with inputs of the current length, or None."""
        c, tokens = self.shape.config, max(self.shape.lengths)
        need = BYTES[key[:2]] * setup.BATCH * tokens * c["d_model"] * 2 * c["num_layers"] + self.shape.bytes
        if need > available_memory():
            return f"needs about {need / 1e9:.0f} GB of memory, more than there is"
        if tokens > LONG and self.shape.name in TOO_LONG[key[0]]:
            return "takes too long"
        return None

    def start(self, key, make):
        why_not = self.why_not(key)
        try:
            if why_not:
                raise Unsupported(why_not)
            self.workers[key] = make()
        except Unsupported as e:
            self.skip(text(key), e)

    def start_all(self):
        why_not = self.o.instructions.why_not("bfloat16")
        for dtype in [d for d in DTYPES[:2] if d in self.o.dtype]:
            self.start(("ia3", dtype, ""), lambda d=dtype: self.shape.engine(d))
            if "torch" in self.o.peers and dtype == "bfloat16" and why_not:
                self.skip(f"{TORCH} in bfloat16 and under autocast", why_not)
            elif "torch" in self.o.peers:
                for attention in ATTENTIONS:
                    self.start((TORCH, dtype, attention), lambda d=dtype, a=attention: self.shape.torch(d, a))

    def choose(self):
        """Keeps the fastest attention and mode of each type."""
        took = {}
        for key, worker in list(self.workers.items()):
            modes = ["plain"] if key[0] == "ia3" or self.o.instructions.why_not("bfloat16") else ["plain", "autocast"]
            try:
                worker.ask(f"train 1 0.1 - {modes[0]}")
                tried = fastest(modes, lambda m: worker.ask(f"train 1 0.1 - {m}")[self.o.clock])
            except Unsupported as e:  # it has ended, for want of memory perhaps
                if key[0] == "ia3":
                    raise
                self.skip(text(key), e)
                del self.workers[key]
                continue
            for mode, seconds in tried.items():
                took[key, mode] = seconds
                progress(f"{self.shape.label}, training: {text(key)}: {seconds:.2f} s a step, {mode}")
        for kind in dict.fromkeys(key[:2] for key in self.workers):
            key, mode = min((k for k in took if k[0][:2] == kind), key=took.get)
            self.modes[key] = mode
        for key in set(self.workers) - set(self.modes):
            self.workers.pop(key).close()

    def prepare(self):
        """The first length tries everything; the others use what was fastest there."""
        if not self.workers:
            self.start_all()
            self.choose()
        self.chosen = {}
        for key, worker in self.workers.items():
            worker.ask(f"inputs {self.shape.inputs}")
            why_not = self.why_not(key)
            if why_not:
                self.skip(text(key), why_not)
            else:
                self.chosen[key] = self.modes[key]

    def compare_losses(self):
        """Without dropout all compute the same: the losses have to agree."""
        losses = {key: self.workers[key].ask(f"train {CHECKED_STEPS} 0 - plain")["loss"] for key in self.chosen}
        reference = losses.get(("ia3", "float32", ""))
        for key, loss in losses.items():
            if reference is not None and not abs(loss - reference) <= TOLERANCE[key[1]] * abs(reference):
                sys.exit(f"{text(key)}: the loss of step {CHECKED_STEPS} is {loss}, ia3's in float32 {reference}")

    def run(self):
        """({key: steps per second}, {key: last answer})"""
        answers = {}

        def once(key):
            def run():
                answers[key] = self.workers[key].ask(f"train {self.o.steps} 0.1 - {self.chosen[key]}")
                return answers[key][self.o.clock]
            return run
        progress(f"{self.shape.label}, training: runs in turn")
        seconds, runs = in_turn(self.o.runs, {key: once(key) for key in self.chosen}, self.shape.seconds)
        self.report.runs(f"{self.shape.label}, training", runs, self.o.runs)
        return {key: self.o.steps / s for key, s in seconds.items()}, answers

    def rows(self):
        shape, report = self.shape, self.report
        if not self.chosen:
            return
        self.compare_losses()
        rates, answers = self.run()
        at = f"{shape.label}, training, batch {setup.BATCH}: "
        for key, rate in list(rates.items()):
            if self.chosen[key] == "autocast":
                rates[(*key[:2], key[2] + ", autocast")] = rates.pop(key)
        for key, rate in rates.items():
            report.row(at + text(key), f"{digits(rate)} steps/s")
        ratio_rows(report, at, rates, TORCH, GOALS.get(self.o.instructions.name) if shape.has_goals else None)
        for dtype in DTYPES[:2]:
            key = ("ia3", dtype, "")
            if key in rates:
                limit_row(shape, report, at, dtype, answers[key]["products"], self.o.steps / rates[key],
                          LIMIT_GOALS[dtype] if shape.has_goals else None)

    def close(self):
        for key, worker in self.workers.items():
            worker.close()
            self.report.row(f"{self.shape.name}, training: {text(key)}: memory at most", f"{worker.peak / 1e6:.0f} MB")


def training(shape, report):
    t = Training(shape, report)
    for tokens in shape.o.tokens:
        what = f"{shape.name}, {tokens} tokens, training"
        if report.late(what):
            continue
        with report.part(what):
            shape.use(tokens)
            t.prepare()
            t.rows()
    t.close()
