#!/usr/bin/env python3
"""Tests of gpu-check itself: limits of time, failures that do not stop the rest, verdicts, totals."""

import argparse
import os
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import check  # noqa: E402
import machine  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import runner  # noqa: E402

ANSWERING = """
import sys, time
for line in sys.stdin:
    if line == "quit\\n":
        break
    if line == "die\\n":
        sys.exit("no more")
    if line == "sleep\\n":
        time.sleep(60)
    print('{"error": "too large"}' if line == "fail\\n" else '{"said": "%s"}' % line.strip(), flush=True)
"""


class Processes(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.log = f"{self.folder.name}/log"

    def tearDown(self):
        self.folder.cleanup()

    def driver(self):
        return runner.Driver([sys.executable, "-c", ANSWERING], self.log)

    def test_run_returns_status_and_output(self):
        self.assertEqual(runner.run(["sh", "-c", "echo a; echo b >&2; exit 3"], 10), (3, "a\nb\n"))

    def test_run_kills_everything_at_the_limit(self):
        started = time.monotonic()
        with self.assertRaises(runner.OutOfTime):
            runner.run(["sh", "-c", "echo begun; sleep 60 & wait"], 0.5, log=self.log)
        self.assertLess(time.monotonic() - started, 10)
        with open(self.log) as f:
            self.assertIn("begun", f.read())

    def test_driver_answers(self):
        with self.driver() as d:
            self.assertEqual(d.ask("one", 10), {"said": "one"})
            with self.assertRaisesRegex(runner.Failure, "too large"):
                d.ask("fail", 10)
            self.assertEqual(d.ask("two", 10), {"said": "two"})

    def test_driver_that_dies_says_its_last_words(self):
        with self.driver() as d:
            with self.assertRaisesRegex(runner.Failure, "status 1.*no more"):
                d.ask("die", 10)

    def test_driver_that_hangs_is_killed(self):
        with self.driver() as d:
            with self.assertRaises(runner.OutOfTime):
                d.ask("sleep", 0.5)
            self.assertIsNotNone(d.process.poll())


class Tables(unittest.TestCase):
    def measure(self, ours, peer, **more):
        m = report.Measure("m", "s", **more)
        m.ours, m.peer = ours, peer
        return m

    def test_verdicts(self):
        goals = [report.at_least(100), report.times_peer(3)]
        self.assertEqual(self.measure(120, 40, goals=goals).verdict(), "ok")
        self.assertEqual(self.measure(120, 41, goals=goals).verdict(), "short")
        self.assertEqual(self.measure(99, 10, goals=goals).verdict(), "short")
        self.assertEqual(self.measure(120, None, goals=goals).verdict(), "part measured")
        self.assertEqual(self.measure(99, None, goals=goals).verdict(), "short")
        self.assertEqual(self.measure(None, 10, goals=goals).verdict(), "not measured")
        self.assertEqual(self.measure(120, 40).verdict(), "")

    def test_ratio_says_how_much_better(self):
        self.assertEqual(self.measure(10, 40, less=True).ratio(), 4)
        self.assertEqual(self.measure(10, 40).ratio(), 0.25)
        goals = [report.at_most(25), report.times_peer(3)]
        self.assertEqual(self.measure(24, 80, less=True, goals=goals).verdict(), "ok")

    def test_numbers(self):
        self.assertEqual([report.number(v) for v in (None, 12345.6, 123.45, 12.345, 1.2345, 0.5)],
                         ["-", "12,346", "123.5", "12.35", "1.234", "0.500"])

    def test_goals_of_the_table(self):
        """Numbers that reach every goal by a hair, then one after the other falls short."""
        enough = {"T0-3B train": 25, "T0-3B torch train": 75, "T0-11B train": 90, "T0-3B score 2": 1700,
                  "T0-3B torch score 2": 1700 / 3, "mixed": 0.97, "T0-3B weights": 6e9, "T0-3B memory": 1.6e9,
                  "T0-11B weights": 22e9, "T0-11B memory": 3.2e9}

        def verdicts(results):
            b = measure.Benchmark(argparse.Namespace(small=False, device="cuda", flavor="none"), "", {}, None, None)
            b.results = results
            return [m.verdict() for m in b.table() if m.goals]

        self.assertEqual(set(verdicts(enough)), {"ok"})
        for key in enough:
            if key.endswith("weights"):
                continue
            less_is_worse = key.endswith(("score 2", "mixed")) != (" torch " in key)
            worse = {**enough, key: enough[key] * (0.9 if less_is_worse else 1.1)}
            self.assertEqual(verdicts(worse).count("short"), 1, key)
        self.assertEqual(set(verdicts({})), {"not measured"})

    def test_totals(self):
        r = report.Report(lambda text: None)
        r.check("a", "x", "ok", count=7)
        r.check("a", "y", "failed", "because")
        r.check("b", "z", "skipped", "no time left")
        text = r.text()
        self.assertTrue(text.endswith("7 passed, 1 failed\n"))
        self.assertIn("failed: a: y: because", text)
        self.assertIn("skipped: b: z: no time left", text)


class Steps(unittest.TestCase):
    def run_steps(self, time_limit=100, **functions):
        """A check whose steps are these functions."""
        options = argparse.Namespace(device="cpu", small=True, flavor="none", only=list(functions),
                                     time_limit=time_limit)
        r = report.Report(lambda text: None)
        c = check.Check(options, r)
        c.steps = lambda: {"environment": (lambda step: None, None),
                           **{name: f if isinstance(f, tuple) else (f, None) for name, f in functions.items()}}
        c.run()
        return {step: (status, detail) for step, _, status, detail, _, _ in r.checks}

    def test_a_failure_does_not_stop_the_next_step(self):
        done = []

        def fails(step):
            raise runner.Failure("broken")

        def breaks(step):
            raise KeyError("oops")

        got = self.run_steps(build=fails, tests=breaks, load=lambda step: done.append(1))
        self.assertEqual(got["build"], ("failed", "broken"))
        self.assertEqual(got["tests"], ("failed", "KeyError: 'oops'"))
        self.assertEqual(done, [1])

    def test_what_cannot_run_is_skipped_with_its_reason(self):
        got = self.run_steps(sanitizer=(None, "no GPU"))
        self.assertEqual(got["sanitizer"], ("skipped", "no GPU"))

    def test_no_time_left(self):
        got = self.run_steps(time_limit=4, build=lambda step: time.sleep(1.5), tests=lambda step: self.fail())
        self.assertEqual(got["tests"], ("skipped", "no time left"))

    def counted(self, status, output):
        r = report.Report(lambda text: None)
        c = check.Check(argparse.Namespace(device="cpu", small=True, flavor="none", only=None, time_limit=9), r)
        c.count_tests("t", status, output, 0)
        return tuple(r.total(s) for s in ("ok", "failed", "skipped"))

    def test_counts_of_cmocka(self):
        good = "[==========] 5 test(s) run.\n[  PASSED  ] 5 test(s).\n"
        bad = "ERROR: it is 3, not 4\n[  ERROR   ] --- [   LINE   ] --- x.c:1: error: Failure!\n[  FAILED  ] one\n[  PASSED  ] 4 test(s).\n[  SKIPPED ] 2 test(s), listed below:\n" \
              "[  FAILED  ] 1 test(s), listed below:\n[  FAILED  ] one\n"
        self.assertEqual(self.counted(0, good), (5, 0, 0))
        self.assertEqual(self.counted(1, bad), (4, 1, 2))
        self.assertEqual(self.counted(-11, good), (5, 1, 0))  # died at the end
        self.assertEqual(self.counted(0, ""), (0, 1, 0))  # ran nothing
        r = report.Report(lambda text: None)
        c = check.Check(argparse.Namespace(device="cpu", small=True, flavor="none", only=None, time_limit=9), r)
        c.count_tests("t", 1, bad, 0)
        self.assertEqual([x[3] for x in r.checks if x[2] == "failed"], ["one | it is 3, not 4"])


class Machine(unittest.TestCase):
    """With programs that say what odd machines' programs say."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.before = dict(os.environ)
        os.environ["PATH"] = f"{self.folder.name}:{os.environ['PATH']}"
        for name in ("CUDA_VISIBLE_DEVICES", "PYTHON"):
            os.environ.pop(name, None)

    def tearDown(self):
        os.environ.clear()
        os.environ.update(self.before)
        self.folder.cleanup()

    def program(self, name, text):
        path = f"{self.folder.name}/{name}"
        with open(path, "w") as f:
            f.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)
        return path

    def test_a_gpu_that_does_not_tell_everything(self):
        self.program("nvidia-smi", """case "$*" in
            *gpu=name*) echo "NVIDIA H200";; *memory.total*) echo "[N/A]";; *driver*) echo 570.1;; *compute_cap*)
            echo "Field \\"compute_cap\\" is not a valid field to query."; exit 2;; esac""")
        self.assertEqual(machine.gpu_facts("cuda"), {"name": "NVIDIA H200", "driver_version": "570.1"})
        self.assertIsNone(machine.gpu_memory("cuda"))

    def test_no_gpu(self):
        self.program("nvidia-smi", "echo No devices were found; exit 6")
        self.assertEqual(machine.gpu_facts("cuda"), {})

    def test_memory_is_that_of_the_chosen_gpu(self):
        self.program("nvidia-smi", """case "$1" in --id=1) echo 10;; --id=GPU-b) echo 20;; *) echo 30;; esac""")
        self.assertEqual(machine.gpu_memory("cuda:1"), 10 * 2**20)
        self.assertEqual(machine.gpu_memory("cuda"), 30 * 2**20)
        os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-a,GPU-b"
        self.assertEqual(machine.gpu_memory("cuda:1"), 20 * 2**20)

    def test_a_gpu_newer_than_the_toolkit_gets_ptx(self):
        nvcc = self.program("nvcc", 'echo "sm_80\nsm_90\nsm_90a"')
        self.assertEqual(machine.architecture(nvcc, "9.0"), "sm_90a")
        self.assertEqual(machine.architecture(nvcc, "8.0"), "sm_80")
        self.assertEqual(machine.architecture(nvcc, "12.0"), "")
        self.assertEqual(machine.architecture(nvcc, None), "")

    def test_one_interpreter_under_two_names_is_asked_once(self):
        asked = f"{self.folder.name}/asked"
        self.program("python3", f'case "$2" in *realpath*) echo same;; *) echo x >>{asked}; exit 1;; esac')
        self.program("python", f'case "$2" in *realpath*) echo same;; *) echo x >>{asked}; exit 1;; esac')
        machine.find_python(runner.Step(runner.Clock(60), 60))
        with open(asked) as f:
            self.assertEqual(f.read(), "x\n")

    def test_a_versioned_library_gets_a_name_to_link(self):
        packages, links = f"{self.folder.name}/packages", f"{self.folder.name}/links"
        os.mkdir(packages)
        with open(f"{packages}/libcublasLt.so.13", "w"):
            pass
        self.assertEqual(machine._linkable(["/nowhere", packages], links), [packages, links])
        self.assertEqual(os.path.realpath(f"{links}/libcublasLt.so"), os.path.realpath(f"{packages}/libcublasLt.so.13"))

    def test_only_the_simulator_is_one(self):
        self.assertTrue(machine.simulated("/x/ia3_cuda_sim.so"))
        self.assertFalse(machine.simulated("/x/ia3_cuda.so"))
        self.assertFalse(machine.simulated(None))


if __name__ == "__main__":
    unittest.main(verbosity=1)
