"""The benchmark: bench_gpu.c and, as the peer, bench_gpu_torch.py on random weights of the shapes of T0-3B and T0-11B.

The time of 1,000 training steps is extrapolated from 50 steps. Scoring is given in rows per second at the smallest batch whose
rate is within 3% of the best one (a larger batch only takes more memory); the peer uses its best batch. Numbers are medians of
the runs.
"""

import json
import os
import shutil
import statistics

import machine
import report
import runner
import tools

T5 = {"model_type": "t5", "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
      "layer_norm_epsilon": 1e-6, "dropout_rate": 0.1, "feed_forward_proj": "gated-gelu", "pad_token_id": 0,
      "eos_token_id": 1, "decoder_start_token_id": 0, "tie_word_embeddings": False}


def shape(vocabulary, d_model, d_kv, heads, d_ff, layers):
    return {**T5, "vocab_size": vocabulary, "d_model": d_model, "d_kv": d_kv, "num_heads": heads, "d_ff": d_ff,
            "num_layers": layers, "num_decoder_layers": layers}


SHAPES = {"T0-3B": shape(32128, 2048, 64, 32, 5120, 24), "T0-11B": shape(32128, 4096, 64, 64, 10240, 24)}
SMALL = {"T0-3B": shape(512, 64, 16, 4, 128, 2), "T0-11B": shape(512, 96, 32, 4, 192, 2)}
TOKENS, STEPS, WARM = 103, 50, 5
TASKS = 64
# What is profiled: commands of bench_gpu.c after "open".
PROFILED = {"training": ["train 10 3 2"], "scoring": ["score 2 128 1 0"]}
NCU = (["train 2 2 2"], 4000, 1800)  # commands, launches to skip, launches to measure
BATCH_TOKENS, ROW_TOKENS = 4096, TOKENS + 5  # ia3.max_batch_tokens' default; of a row, with those of its two choices


class Plan:
    """How much is measured."""

    def __init__(self, options):
        small, first = options.small, options.run in ("first", "second")
        self.small = small
        self.shapes = SMALL if small else SHAPES
        self.rate = 128 if small else 8192
        self.rows = {"T0-3B": (8, 16) if small else (16, 32, 64, 128, 256, 512),
                     "T0-11B": (8,) if small else (16, 32, 64, 128)}
        if first and not small:
            self.rows["T0-3B"] = (1, 32, 64, 128, 256) if options.run == "first" else (1, 64, 128)
        self.peer_rows = (8,) if small else (64, 128) if first else (16, 32, 64, 128, 256)
        self.seconds = 0.02 if small else 0.5 if first else 0.8
        self.runs = 1 if small or options.run == "first" else 3
        self.steps, self.warm = (4, 3) if small else (STEPS, WARM)


def weight_bytes(config):
    """The approximate size of a checkpoint in bfloat16."""
    d, inner, ff = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    layer = 12 * d * inner + 6 * d * ff  # encoder and decoder
    return 2 * (2 * config["vocab_size"] * d + config["num_layers"] * layer)


class Benchmark:
    def __init__(self, options, folder, environment, the_report, program):
        self.plan = Plan(options)
        self.device, self.folder, self.environment = options.device, folder, environment
        self.python = None  # an interpreter with torch, once it is known
        self.program = program
        self.report = the_report
        self.results = {}  # name -> number
        self.simulated = machine.simulated(os.environ.get("IA3_CUDA_MODULE"))

    # --- processes ---

    def config(self, name):
        path = f"{self.folder}/{name}.json"
        with open(path, "w") as f:
            json.dump(self.plan.shapes[name], f)
        return path

    def ia3_command(self, name):
        return [self.program, "--device", self.device, "--dtype", "bfloat16", "--config", self.config(name),
                "--tokens", str(TOKENS)]

    def ia3(self, name):
        return runner.Driver(self.ia3_command(name), f"{self.folder}/bench-{name}.log", self.environment)

    def peer(self, name):
        device = "cuda" if self.device.startswith("cuda") and not self.simulated else "cpu"
        command = [self.python, "bench/bench_gpu_torch.py", "--config", self.config(name), "--device", device,
                   "--tokens", str(TOKENS)]
        return runner.Driver(command, f"{self.folder}/torch-{name}.log", dict(os.environ))

    def keep(self, key, value, text):
        self.results[key] = value
        self.report.say(f"    {text}")

    # --- ia3 ---

    def run_ia3(self, name, step):
        before = self.gpu_memory()
        self.watched(name, lambda: self.measure_ia3(name, step, before))

    def watched(self, name, function):
        """Calls the function, while the GPU's clock and power go to a file and in the end to the report."""
        clocks = f"{self.folder}/clocks-{name.replace(' ', '-')}.csv"
        watch = machine.watch_gpu(self.device, clocks) if self.gpu_memory() is not None else None
        try:
            function()
        finally:
            if watch:
                runner.kill(watch)
                self.report.fact(f"{name}: {machine.clocks(clocks)}")

    def measure_ia3(self, name, step, before):
        with self.ia3(name) as driver:
            answer = driver.ask("open", step.left())
            self.keep(f"{name} weights", answer["weights"],
                      f"{answer['device']} ({answer['description']}): {answer['parameters'] / 1e9:.2f} billion "
                      f"parameters, {answer['weights'] / 1e9:.2f} GB, {answer['seconds']:.1f} s")
            self.ia3_rate(driver, step)
            self.ia3_scoring(driver, name, step, before)
            self.ia3_training(driver, name, step)
            self.ia3_rate(driver, step)
            if name == "T0-3B":
                self.ia3_mixed(driver, name, step)

    def gpu_memory(self):
        """Bytes in use on the GPU by all processes; None where there is no GPU or nobody says."""
        return machine.gpu_memory(self.device) if self.device.startswith("cuda") and not self.simulated else None

    def ia3_rate(self, driver, step):
        answer = driver.ask(f"rate {self.plan.rate}", step.left())
        rate = answer["flops"] / answer["seconds"]
        self.keep("ia3 rate", max(rate, self.results.get("ia3 rate", 0)),
                  f"bfloat16 product: {rate / 1e12:.1f} TFLOP/s")

    def ia3_scoring(self, driver, name, step, before):
        """Memory stays reserved after a batch. Because the batches grow, memory is read between them."""
        tried, stopped, self.scored = [], None, []
        for rows in self.plan.rows[name]:
            try:
                answer = driver.ask(f"score 2 {rows} 1 {self.plan.seconds}", step.left())
                used, seen = driver.ask("memory", step.left())["used"], self.gpu_memory()
            except runner.Failure as problem:  # no memory for so many rows, or no time: the smaller ones count
                self.report.say(f"    {problem}")
                stopped = problem
                break
            tried.append((answer["rows"] / answer["seconds"], rows, answer["flops"] / answer["seconds"], used,
                          None if seen is None or before is None else seen - before))
            memory = f"{used / 1e9:.2f} GB by its own count" + (
                "" if tried[-1][4] is None else f", {tried[-1][4] / 1e9:.2f} GB by nvidia-smi")
            host = answer["host"] * rows / answer["rows"]
            self.scored.append(f"2 choices, {rows} rows a batch: {tried[-1][0]:,.1f} rows/s, "
                               f"{1000 * rows / tried[-1][0]:.2f} ms a batch ({1000 * host:.2f} of the host), {memory}")
            self.report.say(f"    {self.scored[-1]}")
        self.report.table(f"{name}, scoring", self.scored)
        if not tried:
            raise stopped
        best = max(t[0] for t in tried)
        rate, rows, flops, used, seen = next(t for t in tried if t[0] >= 0.97 * best)
        self.results[f"{name} batch"] = rows
        self.results[f"{name} score 2"] = rate
        self.results[f"{name} score flops"] = flops
        self.results[f"{name} memory"] = (used if seen is None else seen) - self.results[f"{name} weights"]
        self.results[f"{name} memory source"] = "the engine's own count" if seen is None else "nvidia-smi"
        if isinstance(stopped, runner.OutOfTime):  # the process has been ended
            raise stopped
        if name == "T0-3B":
            answer = driver.ask(f"score 8 {rows} 1 {self.plan.seconds}", step.left())
            rate = answer["rows"] / answer["seconds"]
            self.keep(f"{name} score 8", rate, f"8 choices, {rows} rows a batch: {rate:,.1f} rows/s")
            rows = min(BATCH_TOKENS // ROW_TOKENS, rows)
            answer = driver.ask(f"score 2 {rows} 1 {self.plan.seconds}", step.left())
            rate = answer["rows"] / answer["seconds"]
            self.keep(f"{name} score 4096", rate, f"2 choices, {rows} rows a batch: {rate:,.1f} rows/s")
            self.results[f"{name} batch 4096"] = rows

    def ia3_training(self, driver, name, step):
        runs, host = [], 0
        for _ in range(self.plan.runs):
            answer = driver.ask(f"train {self.plan.steps} {self.plan.warm} 2", step.left())
            host = answer["host"] / answer["steps"]
            runs.append((answer["seconds"] / answer["steps"], answer["flops"] / answer["seconds"]))
        seconds = statistics.median(r[0] for r in runs)
        self.results[f"{name} train flops"] = statistics.median(r[1] for r in runs)
        self.keep(f"{name} train", 1000 * seconds, f"training: {1000 * seconds:.2f} ms a step")
        self.report.fact(f"{name}: {1000 * seconds:.2f} ms a training step, of which the host computes "
                         f"{1000 * host:.2f} ms; losses {answer['first_loss']:.3f} and {answer['last_loss']:.3f}")

    def ia3_mixed(self, driver, name, step):
        rows = max(self.results[f"{name} batch"], 1 if self.plan.small else TASKS)
        rates = {1: [], TASKS: []}
        driver.ask(f"score 2 {rows} {TASKS} 0", step.left())
        for _ in range(self.plan.runs):
            for tasks in rates:
                answer = driver.ask(f"score 2 {rows} {tasks} {self.plan.seconds}", step.left())
                rates[tasks].append(answer["rows"] / answer["seconds"])
        ratio = statistics.median(rates[TASKS]) / statistics.median(rates[1])
        self.keep("mixed", ratio, f"{TASKS} tasks mixed against one, {rows} rows a batch: {ratio:.3f}")

    # --- where the time goes ---

    def run_profile(self, name, what, commands, step):
        """The module's own times (profile.cu), which it prints when the device is closed. Lines of text."""
        log = f"{self.folder}/profile-{what}.log"
        command = self.ia3_command(name)
        with runner.Driver(command, log, {**self.environment, "IA3_CUDA_PROFILE": "1"}) as driver:
            for line in commands:
                driver.ask(line, step.left())
        with open(log, errors="replace") as f:
            text = f.read()
        return text[text.index("profile:"):].rstrip().split("\n") if "profile:" in text else []

    def run_ncu(self, name, ncu, step):
        commands, skip, count = NCU
        return tools.kernel_times(ncu, self.ia3_command(name), "\n".join([*commands, "quit", ""]), skip, count, step,
                                  self.environment, f"{self.folder}/ncu.log")

    # --- the peer ---

    def run_peer(self, name, step):
        self.watched(f"torch {name}", lambda: self.measure_peer(name, step))

    def measure_peer(self, name, step):
        with self.peer(name) as driver:
            answer = driver.ask("open", step.left())
            self.report.say(f"    {answer['versions']}, attention: {answer['attention']}, "
                            f"{answer['weights'] / 1e9:.2f} GB, {answer['seconds']:.1f} s")
            self.results["attention"] = answer["attention"]
            answer = driver.ask(f"rate {self.plan.rate}", step.left())
            rate = answer["flops"] / answer["seconds"]
            self.keep("torch rate", max(rate, self.results.get("torch rate", 0)),
                      f"bfloat16 product: {rate / 1e12:.1f} TFLOP/s")
            self.peer_training(driver, name, step)
            if name == "T0-3B":
                best = self.peer_scoring(driver, name, 2, self.plan.peer_rows, step)
                self.peer_scoring(driver, name, 8, (max(best // 4, 1), max(best // 2, 1), best), step)

    def peer_training(self, driver, name, step):
        """Its vectors in float32 (peft's choice) and in bfloat16 (fewer conversions): the faster counts."""
        best = None
        for vectors in ("float32", "bfloat16"):
            try:
                answer = driver.ask(f"train {self.plan.steps} {self.plan.warm} 2 {vectors}", step.left())
            except runner.Failure as problem:
                if best is None and vectors == "bfloat16":
                    raise
                self.report.say(f"    {problem}")
                continue
            seconds = answer["seconds"] / answer["steps"]
            self.report.say(f"    training, vectors in {vectors}: {1000 * seconds:.2f} ms a step")
            best = min(best or seconds, seconds)
            self.results[f"{name} torch train"] = 1000 * best

    def peer_scoring(self, driver, name, choices, sizes, step):
        best, best_rows = 0, sizes[0]
        for rows in sorted(set(sizes)):
            try:
                answer = driver.ask(f"score {choices} {rows} {self.plan.seconds}", step.left())
            except runner.OutOfTime:
                raise
            except runner.Failure as problem:
                self.report.say(f"    {problem}")
                break
            rate = answer["rows"] / answer["seconds"]
            self.report.say(f"    {choices} choices, {rows} rows a batch: {rate:,.1f} rows/s")
            if rate > best:
                best, best_rows = rate, rows
            self.results[f"{name} torch score {choices}"] = best
        return best_rows

    # --- loading ---

    def run_load(self, step):
        name = "T0-3B"
        needed = weight_bytes(self.plan.shapes[name])
        folder = machine.room_for(needed)
        if folder is None:
            return f"no room for a checkpoint of {needed / 1e9:.1f} GB"
        try:
            shutil.copy(self.config(name), f"{folder}/config.json")
            with self.ia3(name) as driver:
                driver.ask(f"write {folder}", step.left())
            runs = []
            for _ in range(2):
                with self.ia3(name) as driver:
                    answer = driver.ask(f"load {folder}", step.left())
                runs.append((answer["open"] + answer["load"], answer))
                speed = answer["weights"] / 1e9 / answer["load"]
                self.report.say(f"    opening the device {answer['open']:.2f} s, weights {answer['load']:.2f} s "
                                f"({speed:.1f} GB/s), digest {answer['digest']:.2f} s")
            best = min(runs, key=lambda r: r[0])
            self.results["load"] = best[0]
            self.results["load digest"] = best[1]["digest"]
        finally:
            shutil.rmtree(folder)
        return ""

    # --- the table ---

    def table(self):
        r, rows = self.results, []

        def row(name, unit, key, peer=None, less=False, goals=(), note="", scale=1.0):
            m = report.Measure(name, unit, less, () if self.plan.small else goals)
            m.ours = None if r.get(key) is None else r[key] * scale
            m.peer = None if peer is None or r.get(peer) is None else r[peer] * scale
            m.note = note
            rows.append(m)

        steps = f"measured on {self.plan.steps}"
        row("T0-3B: 1,000 training steps of 8 x 103 tokens", "s", "T0-3B train", "T0-3B torch train", True,
            [report.at_most(25, " s"), report.times_peer(3)], steps)
        row("T0-11B: the same", "s", "T0-11B train", "T0-11B torch train", True, [report.at_most(90, " s")], steps)
        row("T0-3B: scoring, 2 choices", "rows/s", "T0-3B score 2", "T0-3B torch score 2", False,
            [report.at_least(1700), report.times_peer(3)],
            f"{r.get('T0-3B batch')} rows a batch" if "T0-3B batch" in r else "")
        row("T0-3B: the same in batches of 4,096 tokens", "rows/s", "T0-3B score 4096",
            note=f"{r['T0-3B batch 4096']} rows a batch, as ia3.max_batch_tokens is by default; the batch above needs "
                 f"{r['T0-3B batch'] * ROW_TOKENS:,}" if "T0-3B batch 4096" in r else "")
        row("T0-3B: scoring, 8 choices", "rows/s", "T0-3B score 8", "T0-3B torch score 8")
        row("T0-11B: scoring, 2 choices", "rows/s", "T0-11B score 2")
        row(f"T0-3B: {TASKS} tasks mixed / one task", "", "mixed", goals=[report.at_least(0.97)])
        for name in ("T0-3B", "T0-11B"):
            most = 0.1 * r.get(f"{name} weights", 0) / 1e9 + 1
            allowed = (f"<= 10% + 1 GB = {most:.2f} GB", report.at_most(most)[1])
            row(f"{name}: memory beyond the weights, scoring", "GB", f"{name} memory", less=True, scale=1e-9,
                goals=[allowed], note=r.get(f"{name} memory source", ""))
        limit = max(r.get("ia3 rate", 0), r.get("torch rate", 0))
        for name in ("T0-3B", "T0-11B"):
            for what, key in (("scoring", "score flops"), ("training", "train flops")):
                if limit and f"{name} {key}" in r:
                    row(f"{name}: share of the bfloat16 rate, {what}", "", f"{name} {key}", scale=1 / limit)
        row("bfloat16 rate, product of 8192" if not self.plan.small else "bfloat16 rate", "TFLOP/s", "ia3 rate",
            "torch rate", scale=1e-12)
        row("T0-3B: load from page-cached files", "s", "load",
            note=f"and {r['load digest']:.1f} s for the digest" if "load" in r else "")
        return rows
