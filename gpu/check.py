"""The steps of scripts/gpu-check, the most important first. Each step has a time limit, and so has the whole check. A step
that fails does not stop the next one."""

import argparse
import glob
import os
import re
import sys
import tarfile
import threading
import time

import device_tests
import machine
import measure
import report
import runner
import tools

FOLDER = "build/gpu-check"
# Seconds for each step, in their order. "first" is for a machine where nothing has run before and time is short, "second" for
# what was mended after that, "measure" for numbers once the tests pass.
RUNS = {"full": {"environment": 30, "build": 240, "open": 60, "tests": 100, "ia3 3B": 60, "torch 3B": 90,
                 "transformers": 60, "ia3 11B": 90, "profile": 40, "sanitizer": 120, "torch 11B": 90, "load": 60},
        "first": {"environment": 15, "build": 150, "open": 40, "tests": 75, "ia3 3B": 45, "profile": 40,
                  "sanitizer": 75, "torch 3B": 100},
        "second": {"environment": 10, "build": 60, "open": 20, "tests": 45, "ia3 3B": 25, "profile": 15, "torch 3B": 60,
                   "sanitizer": 40},
        "measure": {"environment": 10, "build": 60, "open": 20, "tests": 40, "ia3 3B": 45, "torch 3B": 80,
                    "transformers": 40, "ia3 11B": 60, "load": 40}}
TIME = {"full": 530, "first": 195, "second": 100, "measure": 300}
STEPS = list(RUNS["full"])


class Check:
    def __init__(self, options, the_report):
        self.options, self.report = options, the_report
        self.clock = runner.Clock(options.time_limit)
        self.environment = dict(os.environ)
        self.python = None
        self.looked = None  # a thread that looks for a Python with torch
        self.nvcc = None
        self.gpu = {}  # machine.gpu_facts
        self.cuda = options.device.startswith("cuda")
        self.module = os.environ.get("IA3_CUDA_MODULE")  # built before
        self.simulated = machine.simulated(self.module)
        self.build_folder = f"build/{options.flavor}"
        self.packed = options.flavor == "gpu" and machine.packed_build(FOLDER)
        self.limits = RUNS[options.run]
        self.cores = len(os.sched_getaffinity(0))
        self.tests = [t for t in device_tests.PROGRAMS if os.path.exists(f"test/engine/{t}.c")]
        if options.small:
            self.tests = [t for t in self.tests if t in ("test_device", "test_kernels_rows")]
        if options.tests:
            self.tests = options.tests
        self.benchmark = None
        self.unusable = ""  # why the device cannot be used, once that is known

    # --- environment ---

    def environment_step(self, step):
        say = self.report.fact
        if self.options.small:
            say("tiny shapes in place of T0-3B and T0-11B: the numbers below only show that all steps run")
        for part in (self.look_at_gpu, self.look_for_toolkit):
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

    def look_for_toolkit(self, step):
        if not self.cuda or self.simulated:
            return
        self.nvcc = machine.find_nvcc()
        if self.nvcc:
            version = machine.output_of([self.nvcc, "--version"]).split("\n")[-1]
            self.report.fact(f"nvcc: {version} ({self.nvcc})")
        elif not self.module and not self.packed:
            self.report.check("environment", "nvcc", "failed", "not found")
        machine.use_toolkit(self.environment, self.nvcc, sys.executable, FOLDER)

    def start_looking_for_python(self, step):
        """Importing torch for the first time takes its time; meanwhile something else can be done."""
        if self.looked is None:
            def look():
                self.python, versions = machine.find_python(step)
                self.report.fact(versions if self.python else "no Python with torch, transformers and peft")
            self.looked = threading.Thread(target=look, daemon=True)
            self.looked.start()

    def find_python(self, step):
        """Why there is no Python with torch; None if there is one."""
        self.start_looking_for_python(step)
        self.looked.join(max(step.left(), 0.1))
        if self.benchmark:
            self.benchmark.python = self.python
        return None if self.python else "no Python with torch, transformers and peft"

    # --- build ---

    def make(self, step, what, targets, *variables):
        command = ["make", "-s", "-k", "-f", "src/engine/engine.mk", "-j", str(self.cores),
                   f"FLAVOR={self.options.flavor}", *variables, *targets]
        if self.options.flavor == "gpu":  # a build of its own, only for here
            command.append("OPTFLAGS=-march=native")
        log = f"{FOLDER}/build-{what.split()[0]}.log"
        status, output = runner.run(command, step.left(), self.environment, log)
        if status != 0:
            lines = output.strip().split("\n")
            wrong = [line for line in lines if re.search(r"error|cannot find|No rule", line)][:3] or lines[-3:]
            raise runner.Failure(f"{' / '.join(wrong)} (see {log})")

    def unpack(self, step):
        """Uses what was packed if its programs run here."""
        folder, made_of = machine.unpack_build(self.environment, FOLDER)
        status, output = runner.run([f"{folder}/bench/bench_gpu"], min(step.left(), 20), self.environment)
        if status != 2 or "usage:" not in output:
            self.report.check("build", "packed build", "skipped", f"it does not run here: {output.strip()[-300:]}")
            return False
        self.build_folder = folder
        if self.cuda and not self.module:
            self.module = os.path.abspath(f"{folder}/ia3_cuda.so")
        self.report.fact(f"build: packed, of {made_of}")
        self.report.check("build", "packed build", "ok")
        return True

    def build_step(self, step):
        """Everything at once; if that fails, each part separately, so that the benchmark can still run if the tests cannot
        be built."""
        if self.packed and self.unpack(step):
            return
        self.report.fact(f"compiler: {machine.output_of(['gcc', '--version']).split(chr(10))[0]}")
        source, missing = machine.use_libraries(self.environment, FOLDER)
        self.report.check("build", "libraries", "ok" if source else "failed", source or missing)
        b = self.build_folder
        variables = []
        parts = [("engine", [f"{b}/ia3_engine", f"{b}/bench/bench_gpu"])]
        if self.cuda and not self.module:
            variables = [f"NVCC={self.nvcc}"] if self.nvcc else []
            arch = machine.architecture(self.nvcc, self.gpu.get("compute_cap")) if self.nvcc else ""
            if arch:
                variables.append(f"CUDA_ARCHS={arch}")
            parts.append(("CUDA module", [f"{b}/ia3_cuda.so"]))
        parts.append(("tests", [f"{b}/test/{t.partition('=')[0]}" for t in self.tests]))
        try:
            self.make(step, "all", [t for _, targets in parts for t in targets], *variables)
            self.report.check("build", "engine, module and tests", "ok", seconds=step.seconds())
        except runner.Failure:
            for what, targets in parts:
                try:
                    self.make(step, what, targets, *variables)
                    self.report.check("build", what, "ok")
                except runner.Failure as problem:
                    self.report.check("build", what, "failed", str(problem))
        if self.cuda and not self.module:
            self.module = os.path.abspath(self.engine_program("ia3_cuda.so"))

    def open_step(self, step):
        if self.cuda and self.module and not self.simulated:
            machine.output_of(["sh", "-c", f"ldd {self.module} >{FOLDER}/ldd.log 2>&1; nvidia-smi >>{FOLDER}/ldd.log"],
                              environment=self.environment)
        self.unusable = self.open_device(step)
        if self.packed and re.search(r"libcublasLt|GLIBC|shared object|kernel image", self.unusable):
            self.report.check("open", "packed module", "skipped", f"built here instead: {self.unusable}")
            self.packed, self.module, self.build_folder = False, None, f"build/{self.options.flavor}"
            self.build_step(runner.Step(self.clock, self.limits["build"]))
            self.use_module()
            self.unusable = self.open_device(runner.Step(self.clock, self.limits["open"]))
        if not self.unusable:
            self.report.check("open", f"device {self.options.device} opens", "ok")
        else:
            self.report.check("open", "device opens", "failed", self.unusable)

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
        if self.options.run in ("second", "measure") and "torch 3B" in self.wanted():
            self.start_looking_for_python(step)
        workers = max(1, min(6, self.cores // 2)) if self.cuda and not self.simulated else 1
        tests = device_tests.DeviceTests(self.report, FOLDER, f"{self.build_folder}/test", self.environment,
                                         self.options.device, workers)
        tests.run(self.tests, step, self.options.run == "full")

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
        if "torch 3B" in self.limits:
            self.start_looking_for_python(step)
        tool = tools.find("compute-sanitizer", self.nvcc)
        if tool is None:
            self.report.check("sanitizer", "compute-sanitizer", "skipped", "it is not installed")
            return
        sanitizer = tools.Sanitizer(self.report, tool, FOLDER, f"{self.build_folder}/test", self.environment,
                                    self.options.device, max(1, min(8, self.cores // 2)))
        kinds = {"first": tools.KINDS[:2], "second": tools.KINDS[:1]}.get(self.options.run, tools.KINDS)
        sanitizer.run([t.partition("=")[0] for t in self.tests], kinds, step)

    # --- where the time goes ---

    def profile_step(self, step):
        for what, commands in measure.PROFILED.items():
            lines = self.benchmark.run_profile("T0-3B", what, commands, step)
            self.report.table(f"T0-3B, {what}: times of kernels, copies and products (IA3_CUDA_PROFILE)", lines)
        self.report.check("profile", "by events", "ok")
        ncu = tools.find("ncu", self.nvcc) if self.options.run != "second" else None
        if ncu is None or self.simulated or not self.cuda:
            return
        try:
            times = self.benchmark.run_ncu("T0-3B", ncu, step)
        except (OSError, runner.Failure) as problem:
            self.report.check("profile", "by ncu", "skipped", str(problem))
            return
        self.report.check("profile", "by ncu", "ok")
        lines = [f"{us:10.1f} {calls:6d} {us / calls:8.1f}  {name[:90]}" for name, calls, us in times]
        self.report.table("T0-3B, training: kernels by ncu: us in all, calls, us each", lines)

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

    def obstacle(self, name, step):
        """Why a step cannot run; None if it can."""
        if name in ("environment", "build"):
            return None
        if not os.path.exists(self.engine_program("ia3_engine")):
            return None if name.startswith("torch") else "there is no engine"
        if name.startswith("torch"):
            return self.find_python(step)
        if name != "open" and self.unusable:
            return "the device does not open"
        if name in ("ia3 3B", "ia3 11B", "profile", "load") and not os.path.exists(
                self.engine_program("bench/bench_gpu")):
            return "there is no bench_gpu"
        if name in ("sanitizer", "profile") and (self.simulated or not self.cuda) and not (
                name == "profile" and self.options.small):
            return "no GPU"
        return self.find_python(step) if name == "transformers" else None

    def steps(self):
        return {"environment": self.environment_step, "build": self.build_step, "open": self.open_step,
                "tests": self.tests_step, "transformers": self.transformers_step,
                "ia3 3B": lambda s: self.bench_step(s, "T0-3B"), "torch 3B": lambda s: self.peer_step(s, "T0-3B"),
                "ia3 11B": lambda s: self.bench_step(s, "T0-11B"), "profile": self.profile_step,
                "sanitizer": self.sanitizer_step, "torch 11B": lambda s: self.peer_step(s, "T0-11B"),
                "load": self.load_step}

    def wanted(self):
        """Names of the steps to run: without the first three, nothing can run."""
        needed = ("environment", "build", "open")
        return [n for n in self.limits if not self.options.only or n in self.options.only or n in needed]

    def run_step(self, name, function):
        limit = self.limits[name]
        self.report.say(f"== {name} (of {limit} s; {self.clock.left():.0f} s left for all)")
        step = runner.Step(self.clock, limit)
        obstacle = "no time left" if step.left() < 3 else self.obstacle(name, step)
        if obstacle:
            self.report.check(name, name, "skipped", obstacle)
            return
        try:
            function(step)
        except Exception as problem:  # whatever it is, the next step runs
            text = str(problem) if isinstance(problem, runner.Failure) else f"{type(problem).__name__}: {problem}"
            self.report.check(name, "end of the step", "failed", text)
        self.report.took(name, step.seconds())
        self.report.say(f"   {step.seconds():.1f} s")

    def use_module(self):
        if self.cuda and self.module:
            self.environment["IA3_CUDA_MODULE"] = self.module
        self.benchmark = measure.Benchmark(self.options, FOLDER, self.environment, self.report,
                                           self.engine_program("bench/bench_gpu"))

    def run(self):
        for name in self.wanted():
            if name not in ("environment", "build") and self.benchmark is None:
                self.use_module()
            self.run_step(name, self.steps()[name])
            self.report.measures = self.benchmark.table() if self.benchmark else []
            self.save()
        if self.options.small and not self.options.only and self.options.run == "full":
            for m in self.report.measures:
                measured = m.ours is not None
                self.report.check("table", m.name, "ok" if measured else "failed", "" if measured else "not measured")

    def save(self):
        """After each step, so that a run that is killed leaves what it knows."""
        out = os.environ.get("OUT")
        self.report.write(f"{out}/gpu-check" if out else f"{FOLDER}/report")
        if out:
            with tarfile.open(f"{out}/gpu-check-logs.tar.gz", "w:gz") as tar:
                for log in sorted(glob.glob(f"{FOLDER}/*.log") + glob.glob(f"{FOLDER}/*.csv")):
                    tar.add(log, os.path.basename(log))


def main():
    parser = argparse.ArgumentParser(prog="scripts/gpu-check")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--flavor", default="gpu")
    parser.add_argument("--small", action="store_true", help="tiny shapes and few tests: does the check itself work?")
    parser.add_argument("--run", choices=list(RUNS), default="full")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of: {', '.join(STEPS)}")
    parser.add_argument("--tests", type=lambda text: text.split(","), help="PROGRAM[=FILTER],... in place of all tests")
    parser.add_argument("--time-limit", type=float)
    parser.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"), help="prints two reports' measures side by side")
    options = parser.parse_args()
    if options.compare:
        print("\n".join(report.compare(*options.compare)))
        return
    options.time_limit = options.time_limit or TIME[options.run]
    for name in options.only or []:
        if name not in RUNS[options.run]:
            parser.error(f"there is no step \"{name}\"")
    os.makedirs(FOLDER, exist_ok=True)
    started = time.monotonic()
    the_report = report.Report(lambda text: print(text, flush=True))
    check = Check(options, the_report)
    check.run()
    the_report.facts.append(f"{time.monotonic() - started:.0f} s in all")
    check.save()
    print("\n" + the_report.text(), end="", flush=True)
    sys.exit(1 if the_report.total("failed") or not the_report.total("ok") else 0)


if __name__ == "__main__":
    main()
