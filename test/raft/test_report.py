"""Tests of what scripts/raft reports: measures, paired intervals, and predictions that are kept in a file."""

import argparse
import contextlib
import io
import re
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import raft  # noqa: E402
import raft_baselines  # noqa: E402
import raft_report  # noqa: E402


def reported(tasks, methods):
    """tasks: [(name, labels, {method: [(truth, predicted)]})]; the lines that are printed"""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        report = raft_report.Report(methods)
        for task in tasks:
            report.add(*task)
        report.finish()
    return out.getvalue().splitlines()


class Measures(unittest.TestCase):
    def test_accuracy_and_macro_f1(self):
        pairs = [("a", "a"), ("a", "b"), ("b", "b"), ("c", "b")]
        self.assertEqual(raft_report.accuracy(pairs), 0.5)
        # a: 1 right of 2, said once: 2/3. b: 2·1/(1 + 3) = 1/2. c: 0. d occurs nowhere: 0.
        self.assertAlmostEqual(raft_report.macro_f1(pairs, ["a", "b", "c"]), (2 / 3 + 1 / 2) / 3)
        self.assertAlmostEqual(raft_report.macro_f1(pairs, ["a", "b", "c", "d"]), (2 / 3 + 1 / 2) / 4)

    def test_lines(self):
        truth = {1: "a", 2: "b"}
        right, half = {1: "a", 2: "b"}, {1: "a", 2: "a"}
        lines = reported([("one", ["a", "b"], {"tf-idf": [(truth, half)], "ia3": [(truth, right)]}),
                          ("two", ["a", "b"], {"tf-idf": [(truth, half), (truth, right)], "ia3": [(truth, right), (truth, right)]})],
                         ["tf-idf", "ia3"])
        self.assertRegex(lines[1], r"^one +0\.500 / 0\.333 +1\.000 / 1\.000$")
        self.assertRegex(lines[2], r"^two +0\.750 / 0\.667 +1\.000 / 1\.000$")
        self.assertRegex(lines[-1], r"^mean of 2 +0\.625 / 0\.500 +1\.000 / 1\.000$")

    def test_intervals_are_paired(self):
        """Methods that err on the same rows differ by nothing, however the rows are drawn; one that is right throughout is ahead."""
        truth = {i: "ab"[i % 2] for i in range(50)}
        poor = {i: "a" if i < 30 else truth[i] for i in truth}
        lines = reported([("one", ["a", "b"], {"x": [(truth, poor)], "y": [(truth, truth)], "ia3": [(truth, poor)]})], ["x", "y", "ia3"])
        self.assertIn("ia3 against x: accuracy +0.000 [+0.000, +0.000], macro-F1 +0.000 [+0.000, +0.000]", lines)
        found = next(line for line in lines if line.startswith("ia3 against y"))
        self.assertRegex(found, r"accuracy -0\.300 \[-0\.4[0-9]+, -0\.1[0-9]+\]")


class Store(unittest.TestCase):
    def test_predictions_come_back(self):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/results"
            store = raft_report.Store(path)
            store.add(["task", "ia3", 42, 0, [5, 1000]], [[3, "ja"], [4, "ñ"]])
            store.add(["task", "ia3", 42, 1, [5, 1000]], [[5, "ja"]])
            with open(path, "a", encoding="utf-8") as f:
                f.write('[["task", "ia3", 42, 2, [5, 1000]], [[6, "j')  # the run was stopped here
            again = raft_report.Store(path)
            self.assertEqual(again[["task", "ia3", 42, 0, [5, 1000]]], [[3, "ja"], [4, "ñ"]])
            for key in (["task", "ia3", 42, 2, [5, 1000]], ["task", "ia3", 42, 0, [5, 200]], ["task", "tf-idf", 42, 0, [5, 1000]]):
                self.assertNotIn(key, again)
            again.add(["task", "ia3", 42, 2, [5, 1000]], [[6, "ja"]])
            self.assertEqual(len(raft_report.Store(path).known), 3)


    def test_a_file_of_another_kind_is_left_alone(self):
        for content in ("my notes", "my notes\non two lines"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "notes"
                path.write_text(content)
                with self.assertRaisesRegex(SystemExit, "was not written by --results"):
                    raft_report.Store(str(path))
                self.assertEqual(path.read_text(), content)


class Intervals(unittest.TestCase):
    def test_rare_labels(self):
        """Of labels that occur once some are missing whenever rows are drawn again; the interval is about the difference all the same."""
        truth = {i: f"label {i}" for i in range(50)}
        half = {i: truth[i] if i % 2 else "label 0" for i in truth}
        lines = reported([("one", sorted(truth.values()), {"x": [(truth, half)], "ia3": [(truth, truth)]})], ["x", "ia3"])
        found = next(line for line in lines if line.startswith("ia3 against x"))
        f1, low, high = map(float, re.search(r"macro-F1 ([+.0-9]+) \[([+.0-9]+), ([+.0-9]+)\]", found).groups())
        self.assertAlmostEqual((low + high) / 2, f1, delta=0.05)


class Runs(unittest.TestCase):
    def runner(self, path, **options):
        chosen = {"folds": 2, "raw_banking_labels": False, "labels_in_prompt": "comma", "piece_tokens": 256, "shots": 4, "steps": 1000,
                  "banking_lm_only": False, "loss_averaging": "batch", "results": path, "jobs": 1, "quiet": True}
        return raft.Runner(argparse.Namespace(**chosen | options), ["digest", "float32"])

    def test_options_that_change_predictions_are_part_of_the_key(self):
        task = raft.Task("one", [], [], {})
        with tempfile.TemporaryDirectory() as folder:
            plain = self.runner(folder + "/r").key(task, "ia3", 42, 0)
            for option, value in (("steps", 200), ("labels_in_prompt", "none"), ("loss_averaging", "example"), ("folds", 5),
                                  ("raw_banking_labels", True), ("piece_tokens", 128), ("banking_lm_only", True)):
                self.assertNotEqual(self.runner(folder + "/r", **{option: value}).key(task, "ia3", 42, 0), plain, option)
            baseline = self.runner(folder + "/r").key(task, "tf-idf", 42, 0)
            self.assertEqual(self.runner(folder + "/r", steps=200).key(task, "tf-idf", 42, 0), baseline)
            self.assertNotEqual(self.runner(folder + "/r", raw_banking_labels=True).key(task, "tf-idf", 42, 0), baseline)

    def test_a_run_continues(self):
        rows = [raft_baselines.Row(i, "ab"[i % 3 == 0], "") for i in range(12)]
        task = raft.Task("one", ["a", "b"], rows, {42: {r.id: r.id % 2 for r in rows}})
        with tempfile.TemporaryDirectory() as folder:
            path = folder + "/r"
            first = self.runner(path).predictions(task, "majority", 42)
            self.assertEqual(first, {r.id: "a" for r in rows})
            with mock.patch.dict(raft_baselines.METHODS, {"majority": lambda *_: self.fail("a fold was run again")}):
                self.assertEqual(self.runner(path).predictions(task, "majority", 42), first)


class Baselines(unittest.TestCase):
    def test_most_frequent(self):
        rows = [raft_baselines.Row(i, label, "") for i, label in enumerate("abbcc")]
        self.assertEqual(raft_baselines.most_frequent(rows, [raft_baselines.Row(9, "a", "")]), {9: "b"})


if __name__ == "__main__":
    unittest.main()
