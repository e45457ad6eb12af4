"""The steps of scripts/gpu-check, the most important first. Each step has a time limit, and so has the whole check. A step
that fails does not stop the next one."""

import argparse
import os
import re
import sys
import time

import machine
import measure
import report
import runner

FOLDER = "build/gpu-check"
# Tests that run on the device that IA3_TEST_DEVICE names.
DEVICE_TESTS = ["test_device", "test_kernels_matmul", "test_kernels_rows", "test_kernels_attention",
                "test_attention_shapes", "test_golden", "test_gradient", "test_devices", "test_train", "test_generate",
                "test_methods", "test_variants"]
# What compute-sanitizer looks at, small programs and small parts of others: (program, IA3_TEST_FILTER).
SANITIZED = [("test_kernels_rows", None), ("test_kernels_attention", None), ("test_kernels_matmul", None),
             ("test_gradient", "*t5-gated-untied *"), ("test_device", None)]
TOOLS = ["memcheck", "racecheck", "synccheck"]
LIMITS = {"environment": 150, "build": 240, "tests": 100, "ia3 3B": 60, "torch 3B": 90, "transformers": 60,
          "ia3 11B": 90, "sanitizer": 120, "torch 11B": 90, "load": 60}


class Check:
    def __init__(self, options, the_report):
        self.options, self.report = options, the_report
        self.clock = runner.Clock(options.time_limit)
        self.environment = dict(os.environ)
        self.python = None
        self.nvcc = None
        self.gpu = {}  # machine.gpu_facts
        self.cuda = options.device.startswith("cuda")
        self.module = os.environ.get("IA3_CUDA_MODULE")  # built before
        self.simulated = machine.simulated(self.module)
        self.build_folder = f"build/{options.flavor}"
        self.tests = [t for t in DEVICE_TESTS if os.path.exists(f"test/engine/{t}.c")]
        if options.small:
            self.tests = [t for t in self.tests if t in ("test_device", "test_kernels_rows")]
        self.benchmark = None
        self.unusable = ""  # why the device cannot be used, once that is known

    # --- environment ---

    def environment_step(self, step):
        say = self.report.fact
        if self.options.small:
            say("tiny shapes in place of T0-3B and T0-11B: the numbers below only show that all steps run")
        for part in (self.look_at_gpu, self.look_for_python, self.look_for_toolkit, self.look_for_libraries):
            try:
                part(step)
            except Exception as problem:  # the others are needed as well
                name = part.__name__.split("_")[-1]
                self.report.check("environment", name, "failed", f"{type(problem).__name__}: {problem}")

    def look_at_gpu(self, step):
        say = self.report.fact
        if self.cuda and not self.simulated:
            self.gpu = machine.gpu_facts(self.options.device)
            if not self.gpu:
                self.report.check("environment", "GPU", "failed", "nvidia-smi shows none")
        if self.gpu:
            told = self.gpu.get
            say(f"GPU: {told('name')}, {told('memory.total', '?')} MiB, driver {told('driver_version', '?')}, at most "
                f"{told('clocks.max.sm', '?')} MHz and {told('power.limit', '?')} W, compute capability "
                f"{told('compute_cap', '?')}")
        with open("/proc/cpuinfo") as f:
            cpu = re.search(r"model name\s*: (.*)", f.read())
        say(f"CPU: {cpu.group(1) if cpu else 'unknown'}, {len(os.sched_getaffinity(0))} cores")

    def look_for_python(self, step):
        self.python, versions = machine.find_python(step)
        self.report.fact(versions if self.python else "no Python with torch, transformers and peft")

    def look_for_toolkit(self, step):
        if not self.cuda or self.simulated:
            return
        self.nvcc = machine.find_nvcc()
        if self.nvcc:
            machine.use_toolkit(self.environment, self.nvcc, self.python, FOLDER)
            version = machine.output_of([self.nvcc, "--version"]).split("\n")[-1]
            self.report.fact(f"nvcc: {version} ({self.nvcc})")
        elif not self.module:
            self.report.check("environment", "nvcc", "failed", "not found")

    def look_for_libraries(self, step):
        self.report.fact(f"compiler: {machine.output_of(['gcc', '--version']).split(chr(10))[0]}")
        source, missing = machine.use_libraries(self.environment, FOLDER)
        if source:
            self.report.fact(f"libraries of the engine: {source}")
        self.report.check("environment", "libraries", "ok" if source else "failed", missing)

    # --- build ---

    def make(self, step, what, targets, *variables):
        command = ["make", "-s", "-f", "src/engine/engine.mk", "-j", str(len(os.sched_getaffinity(0))),
                   f"FLAVOR={self.options.flavor}", *variables, *targets]
        if self.options.flavor == "gpu":  # a build of its own, only for here
            command.append("OPTFLAGS=-march=native")
        started = time.monotonic()
        log = f"{FOLDER}/build-{what.split()[0]}.log"
        status, output = runner.run(command, step.left(), self.environment, log)
        if status != 0:
            lines = output.strip().split("\n")
            wrong = [line for line in lines if re.search(r"error|cannot find|No rule", line)][:3] or lines[-3:]
            raise runner.Failure(f"{' / '.join(wrong)} (see {log})")
        self.report.check("build", what, "ok", seconds=time.monotonic() - started)

    def build_step(self, step):
        """Builds each part separately, so that the benchmark can still run if the tests cannot be built."""
        b = self.build_folder
        parts = [("engine", [f"{b}/ia3_engine", f"{b}/bench/bench_gpu"], [])]
        if self.cuda and not self.module:
            variables = [f"NVCC={self.nvcc}"] if self.nvcc else []
            arch = machine.architecture(self.nvcc, self.gpu.get("compute_cap")) if self.nvcc else ""
            if arch:
                variables.append(f"CUDA_ARCHS={arch}")
            parts.append(("CUDA module", [f"{b}/ia3_cuda.so"], variables))
        parts.append(("tests", [f"{b}/test/{t}" for t in self.tests], []))
        for what, targets, variables in parts:
            try:
                self.make(step, what, targets, *variables)
            except runner.Failure as problem:
                self.report.check("build", what, "failed", str(problem))
        self.unusable = self.open_device(step)
        if not self.unusable:
            self.report.check("build", f"device {self.options.device} opens", "ok")
        else:
            self.report.check("build", "device opens", "failed", self.unusable)

    def open_device(self, step):
        """Why the device cannot be used; "" if it can. This avoids that hundreds of tests fail for the same reason."""
        if not os.path.exists(self.engine_program("ia3_engine")):
            return "there is no engine"
        command = [self.engine_program("ia3_engine"), "info", "--backbone", "test/backbone", "--device",
                   self.options.device]
        try:
            status, output = runner.run(command, min(step.left(), 60), self.environment)
        except runner.Failure as problem:
            return str(problem)
        return "" if status == 0 else " ".join(output.split())[-400:]

    def engine_program(self, name):
        return f"{self.build_folder}/{name}"

    # --- tests ---

    def tests_step(self, step):
        environment = {**self.environment, "IA3_TEST_DEVICE": self.options.device}
        nowhere = {**self.environment, "IA3_TEST_DEVICE": "nowhere"}
        for test in self.tests:
            program = f"{self.build_folder}/test/{test}"
            started = time.monotonic()
            try:
                status, output = runner.run([program], min(step.left(), 60), environment, f"{FOLDER}/{test}.log")
                elsewhere, _ = runner.run([program], min(step.left(), 20), nowhere)
            except (OSError, runner.Failure) as problem:
                self.report.check("tests", test, "failed", str(problem), time.monotonic() - started)
                continue
            self.count_tests(test, status, output, time.monotonic() - started)
            if elsewhere == 0:
                self.report.check("tests", test, "failed", "ran without asking for the device")

    def count_tests(self, test, status, output, seconds):
        """cmocka's totals. A program that exits with an error although no test failed counts as one failure."""
        totals = {word: sum(int(n) for n in re.findall(rf"^\[  {word} *\] (\d+) test", output, re.M))
                  for word in ("PASSED", "FAILED", "SKIPPED")}
        if status != 0 and not totals["FAILED"]:
            totals["FAILED"] = 1
        if not any(totals.values()):
            totals["FAILED"] = 1
        if totals["PASSED"]:
            self.report.check("tests", test, "ok", f"{totals['PASSED']} tests", seconds, totals["PASSED"])
        if totals["SKIPPED"]:
            self.report.check("tests", test, "skipped", f"{totals['SKIPPED']} tests", None, totals["SKIPPED"])
        if totals["FAILED"]:
            names = re.findall(r"^\[  FAILED  \] (\D.*)$", output, re.M)
            names = list(dict.fromkeys(n for n in names if " test(s)" not in n))
            wrong = list(dict.fromkeys(re.findall(r"^(?:ERROR: |\[  ERROR   \] --- (?!\[))(.*)$", output, re.M)))
            detail = "; ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            detail = detail or f"exit status {status}: {output.strip()[-200:]}"
            text = " | ".join([detail, *wrong[:3]])[:600]
            self.report.check("tests", test, "failed", text, None, totals["FAILED"])

    # --- transformers ---

    def transformers_step(self, step):
        command = [self.python or sys.executable, "gpu/against_transformers.py", "--engine",
                   f"{self.build_folder}/ia3_engine", "--device", self.options.device]
        # Python keeps its own libraries: the engine's environment is for the engine alone
        engine = {f"IA3_ENGINE_{name}": value for name, value in self.environment.items()
                  if os.environ.get(name) != value}
        status, output = runner.run(command, step.left(), {**os.environ, **engine}, f"{FOLDER}/transformers.log")
        lines = re.findall(r"^(ok|not ok) - (.*)$", output, re.M)
        for verdict, text in lines:
            self.report.check("transformers", text, "ok" if verdict == "ok" else "failed")
        if status != 0 and not any(verdict == "not ok" for verdict, _ in lines):
            raise runner.Failure(output.strip()[-300:])
        if not lines:
            raise runner.Failure(f"nothing was compared: {output.strip()[-300:]}")

    # --- compute-sanitizer ---

    def sanitizer_step(self, step):
        folder = os.path.dirname(self.nvcc) if self.nvcc else ""
        tool = next((p for p in (f"{folder}/compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
                     if os.path.exists(p)), None)
        if tool is None:
            self.report.check("sanitizer", "compute-sanitizer", "skipped", "it is not installed")
            return
        for program, pattern in SANITIZED:
            if program not in self.tests:
                continue
            for kind in TOOLS:
                self.sanitize(tool, kind, program, pattern, step)

    def sanitize(self, tool, kind, program, pattern, step):
        name = f"{kind} {program}"
        if step.left() < 5:
            self.report.check("sanitizer", name, "skipped", "no time left")
            return
        environment = {**self.environment, "IA3_TEST_DEVICE": self.options.device}
        if pattern:
            environment["IA3_TEST_FILTER"] = pattern
        command = [tool, "--tool", kind, "--error-exitcode", "97", "--launch-timeout", "30",
                   f"{self.build_folder}/test/{program}"]
        started = time.monotonic()
        try:
            status, output = runner.run(command, min(step.left(), 40), environment,
                                        f"{FOLDER}/{kind}-{program}.log")
        except runner.OutOfTime as late:
            self.report.check("sanitizer", name, "skipped", str(late), time.monotonic() - started)
            return
        errors = re.findall(r"========= (?!COMPUTE-SANITIZER|ERROR SUMMARY: 0)(.*)", output)
        self.report.check("sanitizer", name, "ok" if status == 0 else "failed",
                          "" if status == 0 else f"status {status}: {' / '.join(errors[:3])}"[:400],
                          time.monotonic() - started)

    # --- benchmark ---

    def bench_step(self, step, name):
        self.benchmark.run_ia3(name, step)
        self.report.check(f"ia3 {name[3:]}", f"measured, shape of {name}", "ok")

    def peer_step(self, step, name):
        self.benchmark.run_peer(name, step)
        self.report.check(f"torch {name[3:]}", f"measured, shape of {name}", "ok")

    def load_step(self, step):
        why = self.benchmark.run_load(step)
        self.report.check("load", "measured", "skipped" if why else "ok", why)

    # --- all ---

    def steps(self):
        """(name, function, what it needs: None or a reason why it cannot run)"""
        built = None if os.path.exists(self.engine_program("ia3_engine")) else "there is no engine"
        if self.unusable:
            built = "the device does not open"
        benched = built or (None if os.path.exists(self.engine_program("bench/bench_gpu")) else "there is no bench_gpu")
        torch = None if self.python else "no Python with torch, transformers and peft"
        no_gpu = "no GPU" if self.simulated or not self.cuda else None
        return {"environment": (self.environment_step, None), "build": (self.build_step, None),
                "tests": (self.tests_step, built),
                "ia3 3B": (lambda s: self.bench_step(s, "T0-3B"), benched),
                "torch 3B": (lambda s: self.peer_step(s, "T0-3B"), torch),
                "transformers": (self.transformers_step, torch or built),
                "ia3 11B": (lambda s: self.bench_step(s, "T0-11B"), benched),
                "sanitizer": (self.sanitizer_step, no_gpu or built),
                "torch 11B": (lambda s: self.peer_step(s, "T0-11B"), torch),
                "load": (self.load_step, benched)}

    def run(self):
        for name, limit in LIMITS.items():
            if self.options.only and name not in self.options.only and name != "environment":
                continue
            if name != "environment" and self.benchmark is None:
                if self.cuda and not self.module:
                    self.environment["IA3_CUDA_MODULE"] = os.path.abspath(self.engine_program("ia3_cuda.so"))
                self.benchmark = measure.Benchmark(self.options, FOLDER, self.environment, self.python, self.report)
            function, obstacle = self.steps()[name]
            self.report.say(f"== {name} (of {limit} s; {self.clock.left():.0f} s left for all)")
            step = runner.Step(self.clock, limit)
            if step.left() < 3:
                obstacle = obstacle or "no time left"
            if obstacle:
                self.report.check(name, name, "skipped", obstacle)
                continue
            try:
                function(step)
            except Exception as problem:  # whatever it is, the next step runs
                text = str(problem) if isinstance(problem, runner.Failure) else f"{type(problem).__name__}: {problem}"
                self.report.check(name, "end of the step", "failed", text)
            self.report.took(name, step.seconds())
            self.report.say(f"   {step.seconds():.1f} s")
        self.report.measures = self.benchmark.table() if self.benchmark else []
        if self.options.small and not self.options.only:
            for m in self.report.measures:
                measured = m.ours is not None
                self.report.check("table", m.name, "ok" if measured else "failed", "" if measured else "not measured")


def main():
    parser = argparse.ArgumentParser(prog="scripts/gpu-check")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--flavor", default="gpu")
    parser.add_argument("--small", action="store_true", help="tiny shapes and few tests: does the check itself work?")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of: {', '.join(LIMITS)}")
    parser.add_argument("--time-limit", type=float, default=530)
    options = parser.parse_args()
    for name in options.only or []:
        if name not in LIMITS:
            parser.error(f"there is no step \"{name}\"")
    os.makedirs(FOLDER, exist_ok=True)
    started = time.monotonic()
    the_report = report.Report(lambda text: print(text, flush=True))
    Check(options, the_report).run()
    out = os.environ.get("OUT")
    the_report.facts.append(f"{time.monotonic() - started:.0f} s in all")
    print("\n" + the_report.text(), end="", flush=True)
    the_report.write(f"{out}/gpu-check" if out else f"{FOLDER}/report")
    sys.exit(1 if the_report.total("failed") or not the_report.total("ok") else 0)


if __name__ == "__main__":
    main()
