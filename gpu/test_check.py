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
import device_tests  # noqa: E402
import machine  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import runner  # noqa: E402
import tools  # noqa: E402

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
            b = measure.Benchmark(options(small=False, device="cuda"), "", {}, None, "")
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

    def test_two_reports_side_by_side(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, ours in (("old", 20.0), ("new", 16.0)):
                r = report.Report(lambda text: None)
                r.measures = [self.measure(ours, None, less=True)]
                r.write(f"{folder}/{name}")
            lines = report.compare(f"{folder}/old.json", f"{folder}/new.json")
        self.assertEqual(lines[1].split(), ["m,", "s", "20.00", "16.00", "1.250", "-", "-"])

    def test_totals(self):
        r = report.Report(lambda text: None)
        r.check("a", "x", "ok", count=7)
        r.check("a", "y", "failed", "because")
        r.check("b", "z", "skipped", "no time left")
        text = r.text()
        self.assertTrue(text.endswith("7 passed, 1 failed\n"))
        self.assertIn("failed: a: y: because", text)
        self.assertIn("skipped: b: z: no time left", text)


def options(**given):
    """What the command line would give."""
    return argparse.Namespace(**{"device": "cpu", "small": True, "flavor": "none", "only": None, "tests": None,
                                 "run": "full", "time_limit": 100, **given})


class Steps(unittest.TestCase):
    def run_steps(self, obstacles=None, time_limit=100, **functions):
        """A check whose steps are these functions."""
        r = report.Report(lambda text: None)
        c = check.Check(options(only=list(functions), time_limit=time_limit), r)
        nothing = {name: lambda step: None for name in ("environment", "build", "open")}
        c.steps = lambda: {**nothing, **functions}
        c.obstacle = lambda name, step: (obstacles or {}).get(name)
        c.save = lambda: None
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
        got = self.run_steps({"sanitizer": "no GPU"}, sanitizer=lambda step: self.fail())
        self.assertEqual(got["sanitizer"], ("skipped", "no GPU"))

    def test_without_the_device_only_torch_runs(self):
        c = check.Check(options(device="cuda"), report.Report(lambda text: None))
        c.engine_program = lambda name: __file__
        c.unusable = "no driver"
        c.find_python = lambda step: None
        can = [name for name in check.STEPS if c.obstacle(name, None) is None]
        self.assertEqual(can, ["environment", "build", "open", "torch 3B", "torch 11B"])

    def test_no_time_left(self):
        got = self.run_steps(time_limit=4, build=lambda step: time.sleep(1.5), tests=lambda step: self.fail())
        self.assertEqual(got["tests"], ("skipped", "no time left"))


class Tests(unittest.TestCase):
    """device_tests.py with programs that say what cmocka says."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.report = report.Report(lambda text: None)
        self.tests = device_tests.DeviceTests(self.report, self.folder.name, self.folder.name, dict(os.environ), "cuda", 2)

    def tearDown(self):
        self.folder.cleanup()

    def program(self, text):
        with open(f"{self.folder.name}/t", "w") as f:
            f.write(f"#!/bin/sh\n{text}\n")
        os.chmod(f"{self.folder.name}/t", 0o755)

    def counted(self, status, output):
        self.report.checks.clear()
        self.tests.count("t", status, output, 0)
        return tuple(self.report.total(s) for s in ("ok", "failed", "skipped"))

    def test_counts_of_cmocka(self):
        good = "[==========] 5 test(s) run.\n[  PASSED  ] 5 test(s).\n"
        bad = "ERROR: it is 3, not 4\n[  ERROR   ] --- [   LINE   ] --- x.c:1: error: Failure!\n[  FAILED  ] one\n[  PASSED  ] 4 test(s).\n[  SKIPPED ] 2 test(s), listed below:\n" \
              "[  FAILED  ] 1 test(s), listed below:\n[  FAILED  ] one\n"
        self.assertEqual(self.counted(0, good), (5, 0, 0))
        self.assertEqual(self.counted(1, bad), (4, 1, 2))
        self.assertEqual(self.counted(-11, good), (5, 1, 0))  # died at the end
        self.assertEqual(self.counted(0, ""), (0, 1, 0))  # ran nothing
        self.counted(1, bad)
        self.assertEqual([x[3] for x in self.report.checks if x[2] == "failed"], ["one | it is 3, not 4"])

    def test_a_death_does_not_hide_the_other_tests(self):
        self.program("""
            run() { echo "[ RUN      ] $1"; }
            good() { run $1; echo "[       OK ] $1"; }
            if [ "$IA3_TEST_DEVICE" = nowhere ]; then for t in a b c d; do run $t; done; exit 4; fi
            case "$IA3_TEST_FILTER" in
                "") good a; run b; echo "ERROR: GPU 0 failed: misaligned address (download)"; exit 1;;
                b) run b; test "$IA3_CUDA_PRODUCTS" = plain && exit 0; echo "ERROR: launch of b_kernel"; exit 1;;
                c) good c; printf '[==========] 1 test(s) run.\\n[  PASSED  ] 1 test(s).\\n'; exit 0;;
                d) run d; kill -SEGV $$;;
            esac""")
        self.tests.run(["t"], runner.Step(runner.Clock(60), 60), False)
        failed = [x[3] for x in self.report.checks if x[2] == "failed"]
        self.assertEqual((self.report.total("ok"), self.report.total("failed")), (2, 2))
        self.assertIn("died with status 1 in b", failed[0])
        self.assertIn("misaligned address", failed[0])
        self.assertIn("status -11", failed[1])
        self.assertIn("launch of b_kernel", self.report.facts[0])  # with CUDA_LAUNCH_BLOCKING
        self.assertIn("PRODUCTS=plain: as it should be", self.report.facts[1])

    def test_refused_products_are_told(self):
        self.program("echo 'refused: 1 rows, 1 by 1, forth'; echo '[==========] 1 test(s) run.'; "
                     "echo '[  PASSED  ] 1 test(s).'")
        self.tests.run(["t"], runner.Step(runner.Clock(60), 60), False)
        self.assertIn("1 shapes, such as 1 rows, 1 by 1, forth", self.report.facts[0])


class Tools(unittest.TestCase):
    def test_clocks_under_load(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(f"{folder}/clocks.csv", "w") as f:
                f.write("timestamp, clocks.current.sm [MHz], ...\n"
                        "2026/11/29 22:59:23.451, 1980, 3201, 130.62, 39, 0\n"
                        "2026/11/29 22:59:26.476, 1365, 3201, 692.65, 52, 6387\n"
                        "2026/11/29 22:59:28.977, 1680, 3201, 690.06, 54, 6311\n"
                        "2026/11/29 22:59:29.000, [N/A], 3201, [N/A], 54, 6311\n")
            self.assertEqual(machine.clocks(f"{folder}/clocks.csv"), "1365 to 1680 MHz, 690 to 693 W (2 samples)")

    def test_verdicts_of_the_sanitizer(self):
        head = "========= COMPUTE-SANITIZER\n"
        self.assertEqual(tools.verdict(0, head + "========= ERROR SUMMARY: 0 errors\n")[0], "ok")
        self.assertEqual(tools.verdict(0, head + "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n")[0],
                         "ok")
        self.assertEqual(tools.verdict(1, head + "========= ERROR SUMMARY: 0 errors\n")[0], "skipped")
        self.assertEqual(tools.verdict(255, head + "========= Error: Device not supported. Please refer to the docs\n")[0],
                         "skipped")
        self.assertEqual(tools.verdict(255, "no such file")[0], "skipped")
        status, detail = tools.verdict(97, head + "========= Invalid __global__ read of size 4 bytes\n"
                                                  "=========     at gated_kernel+0x10\n========= ERROR SUMMARY: 1 error\n")
        self.assertEqual(status, "failed")
        self.assertIn("Invalid __global__ read of size 4 bytes / at gated_kernel", detail)

    def test_times_of_kernels(self):
        text = ('"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
                '"0","void a<float>(int)","gpu__time_duration.sum","ns","1,500"\n'
                '"1","b(int)","gpu__time_duration.sum","us","4.0"\n"2","void a<float>(int)","x","ns","500"\n')
        self.assertEqual(tools.sum_up(text), [("b", 1, 4.0), ("a<float>", 2, 2.0)])


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
        nvcc = self.program("nvcc", 'echo "sm_75\nsm_80\nsm_86\nsm_87\nsm_88\nsm_89\nsm_90\nsm_100\nsm_110\nsm_103\nsm_120\nsm_121"')
        self.assertEqual(machine.architecture(nvcc, "9.0"), "sm_90")
        self.assertEqual(machine.architecture(nvcc, "8.0"), "sm_80")
        self.assertEqual(machine.architecture(nvcc, "13.0"), "")
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
