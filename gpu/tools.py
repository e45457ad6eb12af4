"""What NVIDIA's tools say: compute-sanitizer on the small tests, and the times of kernels by Nsight Compute."""

import csv
import glob
import io
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import runner

KINDS = ["memcheck", "racecheck", "synccheck"]  # the first on all programs, then the second
# (program, IA3_TEST_FILTER, IA3_TEST_SKIP). Products are computed by the module's own kernel there, because instrumenting
# cuBLAS takes minutes; a test whose child ends by a signal is left out.
SANITIZED = [("test_kernels_rows", "", ""), ("test_kernels_matmul", "", ""), ("test_kernels_bottlenecks", "", ""), ("test_kernels_prefix", "", ""),
             ("test_kernels_weights", "", ""), ("test_attention_shapes", "", ""), ("test_kernels_attention", "", ""),
             ("test_gradient", "losses and gradients t5-gated-untied *", ""), ("test_device", "", "test_no_jump"),
             ("test_golden", "scores t5-gated-untied *", "")]


def find(tool, nvcc):
    folders = [os.path.dirname(nvcc)] if nvcc else []
    found = [shutil.which(tool), *(f"{d}/{tool}" for d in [*folders, "/usr/local/cuda/bin"]),
             *sorted(glob.glob(f"/opt/nvidia/nsight-compute/*/{tool}"), reverse=True)]
    return next((p for p in found if p and os.path.exists(p)), None)


class Sanitizer:
    def __init__(self, the_report, tool, folder, programs, environment, device, workers):
        self.report, self.tool, self.folder, self.programs = the_report, tool, folder, programs
        self.environment = {**environment, "IA3_TEST_DEVICE": device, "IA3_CUDA_PRODUCTS": "plain"}
        self.workers = workers

    def run(self, available, kinds, step):
        todo = [s for s in SANITIZED if s[0] in available]
        for kind in kinds:
            with ThreadPoolExecutor(self.workers) as pool:
                results = list(pool.map(lambda s: self.one(kind, *s, step), todo))
            for (program, _, _), result in zip(todo, results):
                self.report.check("sanitizer", f"{kind} {program}", *result)
            if results and all("not supported" in r[1] for r in results):
                return

    def one(self, kind, program, pattern, skip, step):
        """(status, detail, seconds)"""
        if step.left() < 5:
            return "skipped", "no time left", None
        environment = {**self.environment, **({"IA3_TEST_FILTER": pattern} if pattern else {}),
                       **({"IA3_TEST_SKIP": skip} if skip else {})}
        command = [self.tool, "--tool", kind, "--target-processes", "application-only", "--error-exitcode", "97",
                   "--print-limit", "20", f"{self.programs}/{program}"]
        started = time.monotonic()
        try:
            status, output = runner.run(command, min(step.left(), 60), environment,
                                        f"{self.folder}/{kind}-{program}.log")
        except (OSError, runner.Failure) as problem:
            return "skipped", str(problem), time.monotonic() - started
        return (*verdict(status, output), time.monotonic() - started)


def verdict(status, output):
    """(status of the check, detail)"""
    if re.search(r"device not supported|not supported on this device", output, re.I):
        return "skipped", "compute-sanitizer: device not supported"
    said = re.findall(r"^========= (.*)$", output, re.M)
    summary = [line for line in said if "SUMMARY" in line]
    if not summary:
        return "skipped", f"compute-sanitizer came to no result (status {status}): {' / '.join(said[-3:])}"[:300]
    if status == 97 or not re.search(r"SUMMARY: 0 (errors|hazards)", summary[-1]):
        errors = [line.strip() for line in said if not re.match(r"COMPUTE-SANITIZER|\s*$|.*SUMMARY", line)]
        return "failed", f"{summary[-1]}: {' / '.join(errors[:6])}"[:700]
    if status != 0:
        return "skipped", f"{summary[-1]}, but the tests end with status {status}"
    return "ok", ""


def kernel_times(ncu, command, script, skip, count, step, environment, log):
    """Kernel times by ncu: [(name, calls, microseconds in all)], the largest first. `script` goes to standard input."""
    whole = [ncu, "--clock-control", "none", "--metrics", "gpu__time_duration.sum", "--csv", "--target-processes",
             "application-only", "--launch-skip", str(skip), "--launch-count", str(count), *command]
    status, output = runner.run(whole, step.left(), environment, log, stdin=script)
    start = output.find('"ID"')
    if start < 0:
        raise runner.Failure(f"ncu tells no times (status {status}): {output.strip()[-300:]}")
    return sum_up(output[start:])


def sum_up(text):
    units = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}
    sums = {}
    for row in csv.DictReader(io.StringIO(text)):
        value = (row.get("Metric Value") or "").replace(",", "")
        if not re.fullmatch(r"[0-9.]+", value):
            continue
        name = re.sub(r"\(.*\)$|^void |\(anonymous namespace\)::|<unnamed>::", "", row["Kernel Name"])
        calls, us = sums.get(name, (0, 0.0))
        sums[name] = (calls + 1, us + float(value) * units.get(row.get("Metric Unit"), 1e-3))
    return sorted(((name, calls, us) for name, (calls, us) in sums.items()), key=lambda s: -s[2])
