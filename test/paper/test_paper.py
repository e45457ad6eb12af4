"""Tests of what scripts/paper reports and of the order of its trials, without a server."""

import argparse
import random
import sys
import unittest
import xml.dom.minidom
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import paper  # noqa: E402
import paper_page  # noqa: E402
import paper_report  # noqa: E402
import paper_tasks  # noqa: E402
import raft_report  # noqa: E402


def trial(part, task, seed, name, accuracy):
    return paper.Trial(part, task, seed, 0, name, {}), accuracy if accuracy is None else {"accuracy": accuracy, "rows": 10, "seconds": 1}


def result(trials, **costs):
    return paper_report.Result(trials, {"(IA)³": costs or None}, {}, {})


class Reports(unittest.TestCase):
    def test_quartiles(self):
        s = paper_report.spread([0.5, 0.1, 0.3, 0.2, 0.4])
        self.assertEqual((s.median, s.low, s.high, s.n), (0.3, 0.2, 0.4, 5))
        self.assertEqual(str(s), "0.300 [0.200, 0.400]")
        self.assertEqual(str(paper_report.spread([0.25])), "0.250")
        self.assertIsNone(paper_report.spread([]))

    def test_means_are_over_tasks_that_all_have(self):
        trials = [trial("losses", "a", 0, "x", 0.2), trial("losses", "a", 1, "x", 0.4), trial("losses", "a", 0, "y", 0.5), trial("losses", "b", 0, "x", 0.9),
                  trial("losses", "b", 0, "y", None), trial("losses", "c", 0, "x", 0.8), trial("losses", "c", 0, "y", 0.1), trial("methods", "a", 0, "x", 0.0)]
        tasks = paper_report.by_task(result(trials), "losses")
        mean, n = paper_report.means(tasks, ["x", "y"])
        self.assertEqual(n, 2)
        self.assertAlmostEqual(mean["x"], (0.3 + 0.8) / 2)
        self.assertAlmostEqual(mean["y"], (0.5 + 0.1) / 2)

    def test_flops_of_a_prompt_with_examples(self):
        trials = [trial("held-out", "a", 0, name, x) for name, x in (("zero-shot", 0.25), ("in-context", 0.375), ("(IA)³", 0.5))]
        _, content = paper_report.flops(result(trials, inference_flops=2e9, icl_flops=8e10, training_flops=3e13))
        self.assertIn("<tr><td>in-context</td><td>8.00e+10</td><td>0</td><td>0.375</td></tr>", content[0])
        self.assertIn("<tr><td>(IA)³</td><td>2.00e+09</td><td>3.00e+13</td><td>0.500</td></tr>", content[0])

    def test_nothing_yet(self):
        page = paper_report.html_of(result([trial("held-out", "a", 0, "x", None)]))
        self.assertNotIn("Held-out", page)


class Pages(unittest.TestCase):
    def test_axes(self):
        self.assertEqual(paper_page.decades(3e4, 2e6), [1e4, 1e5, 1e6, 1e7])
        self.assertEqual(paper_page.decades(1e3, 1e3), [1e3, 1e4])
        self.assertEqual(paper_page.steps(0.42, 0.61), [0.4, 0.45, 0.5, 0.55, 0.6, 0.65])
        self.assertEqual(paper_page.steps(0.5, 0.5), [0.5, 0.51])
        self.assertEqual(paper_page.steps(0.0, 1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])

    def test_points_are_where_they_belong_and_names_do_not_cover_each_other(self):
        points = [(f"a & {i}", 10.0 ** (3 + i % 3), 0.5 + 0.001 * i) for i in range(12)] + [("<top>", 1e6, 0.6)]
        svg = xml.dom.minidom.parseString(paper_page.scatter(points, "x", "y"))
        at = {c.getElementsByTagName("title")[0].firstChild.data.split(":")[0]: (float(c.getAttribute("cx")), float(c.getAttribute("cy")))
              for c in svg.getElementsByTagName("circle")}
        self.assertEqual(len(at), 13)
        self.assertEqual(at["a & 0"][0], paper_page.LEFT)
        self.assertEqual(at["<top>"], (paper_page.WIDTH - paper_page.RIGHT, paper_page.TOP))
        third = (paper_page.WIDTH - paper_page.LEFT - paper_page.RIGHT) / 3
        self.assertAlmostEqual(at["a & 1"][0], paper_page.LEFT + third, places=1)
        boxes = [self.box(t) for t in svg.getElementsByTagName("text") if t.firstChild.data in at]
        self.assertEqual(len(boxes), 13)
        dots = [paper_page.Box(x - 4, y - 4, x + 4, y + 4) for x, y in at.values()]
        for i, box in enumerate(boxes):
            self.assertFalse([other for other in boxes[:i] + dots if box.overlap(other) > 1], box)

    @staticmethod
    def box(text):
        x, y, wide = float(text.getAttribute("x")), float(text.getAttribute("y")), 7 * len(text.firstChild.data)
        left = {"start": x, "middle": x - wide / 2, "end": x - wide}[text.getAttribute("text-anchor")]
        return paper_page.Box(left, y - 10, left + wide, y + 3)

    def test_a_name_away_from_its_point_has_a_line(self):
        crowd = [(f"name {i}", 1e4, 0.502 + 0.0002 * i) for i in range(8)]
        alone = paper_page.scatter([crowd[0]], "x", "y")
        self.assertNotIn('stroke="#999"', alone)
        self.assertIn('stroke="#999"', paper_page.scatter(crowd, "x", "y"))

    def test_text_is_escaped(self):
        self.assertIn("<td>a &lt; b</td><td>–</td>", paper_page.table(["", "x"], [["a < b", None]]))


class Trials(unittest.TestCase):
    def setUp(self):
        row = paper_tasks.Row({"premise": "p"}, ["yes", "no"], 0)
        self.data = {name: paper_tasks.Data([row] * 10, {7: [0, 1, 2], 3: [2, 3, 4, 5]}) for name in ("rte", "cb")}

    def args(self, **changed):
        a = {"init": None, "parts": paper.PARTS, "seeds": 5, "prompts": 2, "templates": {"rte": ["a", "b"], "cb": ["c"]}}
        return argparse.Namespace(**a | changed)

    def test_rows_of_other_files_are_tested(self):
        d = self.data["rte"]
        self.assertEqual(d.test(7, 100, random.Random(0)), [3, 4, 5, 6, 7, 8, 9])
        some = d.test(7, 3, random.Random(0))
        self.assertTrue(len(some) == 3 and not set(some) & {0, 1, 2})
        self.assertEqual(paper_tasks.test_rows(d, "rte", 3, 3), paper_tasks.test_rows(d, "rte", 3, 3))

    def test_order(self):
        """Every part and task comes with the first file before the second file begins; only the first prompt has all methods."""
        methods = [("(IA)³", {}), ("LoRA", {"method": "lora"})]
        found = list(paper.trials(self.args(), self.data, methods))
        self.assertEqual([t.seed for t in found], sorted(t.seed for t in found))
        self.assertEqual({(t.task, t.prompt) for t in found}, {("rte", 0), ("rte", 1), ("cb", 0)})
        self.assertEqual(len(found), 2 * (2 * (3 + 2 + 4 + 6) + 3))
        self.assertFalse([t for t in found if t.prompt and t.part != "held-out"])

    def test_pre_training(self):
        found = list(paper.trials(self.args(init="start", parts=["methods", "losses"]), self.data, [("(IA)³", {}), ("LoRA", {"method": "lora"})]))
        options = {(t.part, t.name): t.options for t in found}
        self.assertEqual(options["methods", "LoRA"], {"method": "lora"})  # the vectors are (IA)³'s
        self.assertEqual(options["methods", "(IA)³"], {"init": "start"})
        self.assertEqual(options["losses", "without both"], {"init": "start", "unlikelihood_weight": 0, "length_norm_weight": 0})
        self.assertEqual(options["losses", "without pre-training"], {"init": "none"})

    def test_time_left(self):
        """Of training it is per step; other backbones do not count."""
        r = paper.Runner.__new__(paper.Runner)
        r.args, r.about = self.args(steps=100, shots=4, test_rows=9), ["mine"]
        r.known = raft_report.Store(None)
        todo = [t for t in paper.trials(self.args(parts=["held-out", "methods"], prompts=1), self.data, [("Adapter", {"method": "adapter"})]) if t.seed == 3]
        self.assertEqual([t.name for t in todo], ["zero-shot", "in-context", "(IA)³", "Adapter"] * 2)
        self.assertIsNone(r.time_left(todo))
        for about, kind, seconds, rest in ((["mine"], "zero-shot", 2, []), (["mine"], "in-context", 6, [4]), (["mine"], "trained", 50, [1000, []]),
                                           (["mine"], "trained", 15, [100, []]), (["other"], "trained", 9000, [100, []])):
            r.known.add(["paper", "x", 0, kind, [about, "", 9, *rest]], {"accuracy": 0.5, "rows": 9, "seconds": seconds})
        self.assertAlmostEqual(r.time_left(todo), 2 * (2 + 6 + 0.1 * 100 + 0.1 * 50))

    def test_every_task_can_be_asked(self):
        """The fields of templates are those of the rows."""
        d = {"premise": "p", "hypothesis": "h", "label": 1, "question": "effect", "choice1": "a", "choice2": "b", "ctx": "c", "activity_label": "t",
             "endings": ["a", "b"], "answer_right_ending": 2, "sentence_quiz1": "a", "sentence_quiz2": "b", "sentence": "s _", "option1": "a",
             "option2": "b", "answer": "2", "text": "t", "span1_text": "n", "span2_text": "he", "word": "w", "sentence1": "x", "sentence2": "y", "passage": "p",
             **{f"input_sentence_{i}": "s" for i in range(1, 5)}}
        for name, task in paper_tasks.TASKS.items():
            row = task.row(d)
            self.assertEqual(row.right, 1, name)
            for template in task.templates:
                template.format(**row.fields, choices="a, b")


if __name__ == "__main__":
    unittest.main()
