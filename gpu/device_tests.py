"""The engine's tests on the device. Several programs run at a time. When one dies or hangs, the tests that it did not reach
run in processes of their own, so that one crash does not hide what the others say."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import runner

# Products and attention first: everything else needs them.
PROGRAMS = ["test_kernels_matmul", "test_kernels_attention", "test_attention_shapes", "test_devices", "test_gradient",
            "test_golden", "test_multi_label", "test_kernels_rows", "test_device", "test_train", "test_generate", "test_methods",
            "test_variants", "test_kernels_bottlenecks", "test_kernels_prefix", "test_kernels_weights", "test_targets",
            "test_lora_vectors", "test_load", "test_merge", "test_pieces"]
LONGEST, LONGEST_SINGLE = 60, 20  # seconds of a program, of a test that runs alone
TOTALS = ("PASSED", "FAILED", "SKIPPED")


def totals(output):
    """cmocka's counts."""
    return {word: sum(int(n) for n in re.findall(rf"^\[  {word} *\] (\d+) test", output, re.M)) for word in TOTALS}


def names_run(output):
    return re.findall(r"^\[ RUN      \] (.*)$", output, re.M)


def ended(output):
    """Whether cmocka came to its summary."""
    return re.search(r"^\[==========\] \d+ test\(s\) run", output, re.M) is not None


def finished(output):
    """The counts of a program that died, from the lines of its tests."""
    words = {"PASSED": r"^\[       OK \] ", "FAILED": r"^\[  FAILED  \] \D", "SKIPPED": r"^\[  SKIPPED \] \D"}
    return {word: len(re.findall(pattern, output, re.M)) for word, pattern in words.items()}


def what_failed(output):
    """Names of tests and messages, for one line."""
    names = re.findall(r"^\[  FAILED  \] (\D.*)$", output, re.M)
    names = list(dict.fromkeys(n for n in names if " test(s)" not in n))
    wrong = list(dict.fromkeys(re.findall(r"^(?:ERROR: |\[  ERROR   \] --- (?!\[))(.*)$", output, re.M)))
    where = list(dict.fromkeys(re.findall(r"(test/engine/\S+:\d+): error", output)))
    detail = "; ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return " | ".join([p for p in (detail, *wrong[:4], " ".join(where[:6])) if p])[:900]


class DeviceTests:
    def __init__(self, the_report, folder, programs, environment, device, workers=1):
        """`folder` is for logs, `programs` is where the programs are."""
        self.report, self.folder, self.programs, self.device = the_report, folder, programs, device
        self.environment = {**environment, "IA3_TEST_DEVICE": device}
        self.workers = workers
        self.refused = set()  # shapes of products that cuBLASLt does not support

    def run(self, programs, step, thorough):
        """`programs`: names, or NAME=FILTER. `thorough`: also that they do not run without the device."""
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = [(p, pool.submit(self.one, p, step)) for p in programs]
            for program, job in jobs:
                name, _, pattern = program.partition("=")
                try:
                    status, output, seconds, late = job.result()
                except (OSError, runner.Failure) as problem:
                    self.report.check("tests", name, "failed", str(problem))
                    continue
                self.refused.update(re.findall(r"^refused: (.*)$", output, re.M))
                if late or (status != 0 and not ended(output)):
                    self.after_a_death(name, pattern, status, output, seconds, step)
                else:
                    self.count(name, status, output, seconds)
                if thorough and self.elsewhere(name, step):
                    self.report.check("tests", name, "failed", "ran without asking for the device")
        if self.refused:
            self.report.fact(f"products that cuBLASLt refuses: {len(self.refused)} shapes, such as "
                             f"{'; '.join(sorted(self.refused)[:5])}")

    def one(self, program, step, limit=LONGEST, more=None):
        """(status, output, seconds, whether it was killed)"""
        name, _, pattern = program.partition("=")
        environment = {**self.environment, "IA3_CUDA_PRODUCTS": "report", **(more or {})}
        if pattern:
            environment["IA3_TEST_FILTER"] = pattern
        log = f"{self.folder}/{name}{'-' + re.sub(r'[^a-z0-9]+', '-', pattern) if pattern else ''}.log"
        started = time.monotonic()
        try:
            status, output = runner.run([f"{self.programs}/{name}"], min(step.left(), limit), environment, log)
            return status, output, time.monotonic() - started, False
        except runner.OutOfTime:
            with open(log, errors="replace") as f:
                return None, f.read(), time.monotonic() - started, True

    def elsewhere(self, name, step):
        try:
            status, _ = runner.run([f"{self.programs}/{name}"], max(min(step.left(), 20), 1),
                                   {**self.environment, "IA3_TEST_DEVICE": "nowhere"})
        except (OSError, runner.Failure):
            return False
        return status == 0

    def count(self, name, status, output, seconds):
        """A program that exits with an error although no test failed counts as one failure."""
        counts = totals(output)
        if status != 0 and not counts["FAILED"]:
            counts["FAILED"] = 1
        if not any(counts.values()):
            counts["FAILED"] = 1
        self.add(name, counts, what_failed(output) or f"exit status {status}: {output.strip()[-300:]}", seconds)

    def add(self, name, counts, wrong, seconds):
        if counts["PASSED"]:
            self.report.check("tests", name, "ok", f"{counts['PASSED']} tests", seconds, counts["PASSED"])
        if counts["SKIPPED"]:
            self.report.check("tests", name, "skipped", f"{counts['SKIPPED']} tests", None, counts["SKIPPED"])
        if counts["FAILED"]:
            self.report.check("tests", name, "failed", wrong, None, counts["FAILED"])

    # --- after a death ---

    def all_names(self, name, pattern, step):
        """Names of a program's tests: where the device does not exist, each fails at once."""
        environment = {**self.environment, "IA3_TEST_DEVICE": "nowhere"}
        if pattern:
            environment["IA3_TEST_FILTER"] = pattern
        try:
            _, output = runner.run([f"{self.programs}/{name}"], max(min(step.left(), 15), 1), environment)
        except (OSError, runner.Failure):
            return []
        return names_run(output)

    def after_a_death(self, name, pattern, status, output, seconds, step):
        reached = names_run(output)
        last = reached[-1] if reached else "(before the first test)"
        how = f"did not end in {seconds:.0f} s" if status is None else f"died with status {status}"
        said = " / ".join(line for line in output.strip().split("\n")[-4:] if not line.startswith("["))[-400:]
        counts = finished(output)
        counts["FAILED"] += 1
        self.add(name, counts, " | ".join(p for p in (f"{how} in {last}", said, what_failed(output)) if p), seconds)
        rest = [n for n in self.all_names(name, pattern, step) if n not in reached]
        again = [(last, {"CUDA_LAUNCH_BLOCKING": "1"}), (last, {"IA3_CUDA_PRODUCTS": "plain"})] if reached else []
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = [(test, more, pool.submit(self.single, name, test, step, more))
                    for test, more in again + [(test, None) for test in rest]]
            for test, more, job in jobs:
                self.count_single(f"{name}: {test}", more, job.result())

    def single(self, name, test, step, more):
        if step.left() < 2:
            return None
        try:
            return self.one(f"{name}={test}", step, LONGEST_SINGLE, more)
        except (OSError, runner.Failure) as problem:
            return 1, str(problem), 0, False

    def count_single(self, name, more, result):
        """A test that ran alone; with `more` in the environment, the one that died, again, which is no test of its own."""
        if more:
            name += f" with {' '.join('='.join(m) for m in more.items())}"
        if result is None:
            self.report.check("tests", name, "skipped", "no time left")
            return
        status, output, seconds, late = result
        wrong = what_failed(output) or output.strip()[-300:]
        if late:
            wrong = f"did not end in {seconds:.0f} s | {wrong}"
        if more:
            self.report.fact(f"{name}: {'as it should be' if status == 0 else f'status {status}: {wrong}'}")
        elif status == 0:
            self.add(name, totals(output), "", seconds)
        else:
            self.report.check("tests", name, "failed", f"status {status}: {wrong}", seconds)
