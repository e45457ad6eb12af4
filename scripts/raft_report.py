"""Accuracy and macro-F1 of predictions, paired intervals between methods, and a file that keeps predictions."""

import collections
import json
import os
import random

DRAWS = 1000


class Store:
    """What was found out, by key, in a file of JSON lines (or in memory, without a path). Keys and values are what JSON can hold."""

    def __init__(self, path):
        self.path, self.known = path, {}
        if path and os.path.exists(path):
            with open(path, "rb+") as f:
                data = f.read()
                if data and not data.startswith(b"[["):
                    raise SystemExit(f"{path} was not written by --results")
                for line in data.split(b"\n")[:-1]:
                    key, value = json.loads(line)
                    self.known[json.dumps(key)] = value
                f.truncate(data.rfind(b"\n") + 1)  # a line that was cut off when the run was stopped

    def __contains__(self, key):
        return json.dumps(key) in self.known

    def __getitem__(self, key):
        return self.known[json.dumps(key)]

    def add(self, key, value):
        self.known[json.dumps(key)] = value
        if self.path:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps([key, value], ensure_ascii=False) + "\n")


def accuracy(pairs):
    """pairs: [(truth, predicted)]"""
    return sum(a == b for a, b in pairs) / len(pairs)


def macro_f1(pairs, labels=None):
    """
    The mean over the labels of F1 = 2 tp / (2 tp + fp + fn), which is 0 for a label that neither occurs nor is predicted. Without labels:
    over those that occur, which is what a part of the rows is judged by.
    """
    right, all_ = collections.Counter(), collections.Counter()
    for truth, predicted in pairs:
        right[truth] += truth == predicted
        all_[truth] += 1
        all_[predicted] += 1
    labels = labels or {truth for truth, _ in pairs}
    return sum(2 * right[x] / all_[x] for x in labels if all_[x]) / len(labels)


class Report:
    """Prints a line a task as it is added; finish() prints comparisons and the means."""

    def __init__(self, methods):
        self.methods = methods
        self.tasks = []  # (labels, {method: a list of pairs for each seed, rows in the same order})
        print(f"{'task':32}" + "".join(f"{m:>16}" for m in methods), flush=True)

    def line(self, name, numbers):
        print(f"{name:32}" + "".join(f"{a:>8.3f} / {f:.3f}" for a, f in numbers), flush=True)

    def add(self, name, labels, predictions):
        """predictions: {method: [(truth by id, predicted by id) of each seed]}"""
        pairs = {m: [[(truth[i], said[i]) for i in sorted(truth)] for truth, said in seeds] for m, seeds in predictions.items()}
        self.tasks.append((labels, pairs))
        self.line(name, [self.of_task(labels, pairs[m]) for m in self.methods])

    @staticmethod
    def of_task(labels, seeds, rows=None):
        """(accuracy, macro-F1), means over seeds; of some rows only (repetitions count) and their labels, if given."""
        chosen = [[pairs[i] for i in rows] if rows else pairs for pairs in seeds]
        judged_by = None if rows else labels
        return tuple(sum(x) / len(chosen) for x in zip(*((accuracy(p), macro_f1(p, judged_by)) for p in chosen)))

    def mean(self, method):
        return tuple(sum(x) / len(self.tasks) for x in zip(*(self.of_task(labels, pairs[method]) for labels, pairs in self.tasks)))

    def differences(self, one, other):
        """The mean difference of accuracy and of macro-F1, drawn again DRAWS times: [(accuracy, macro-F1)], in the order in which they were drawn."""
        r, result = random.Random(0), []
        for _ in range(DRAWS):
            sums = [0.0, 0.0]
            for labels, pairs in self.tasks:
                n = len(pairs[one][0])
                rows = r.choices(range(n), k=n)
                a, b = self.of_task(labels, pairs[one], rows), self.of_task(labels, pairs[other], rows)
                sums = [s + x - y for s, x, y in zip(sums, a, b)]
            result.append([s / len(self.tasks) for s in sums])
        return result

    def compare(self, one, other):
        drawn = self.differences(one, other)
        cells = []
        for i, name in enumerate(("accuracy", "macro-F1")):
            values = sorted(d[i] for d in drawn)
            low, high = values[int(0.025 * DRAWS)], values[int(0.975 * DRAWS)]
            cells.append(f"{name} {self.mean(one)[i] - self.mean(other)[i]:+.3f} [{low:+.3f}, {high:+.3f}]")
        print(f"{one} against {other}: {', '.join(cells)}")

    def finish(self):
        if len(self.methods) > 1:
            print("differences with 95% intervals, paired by rows:")
            best = "ia3" if "ia3" in self.methods else self.methods[-1]
            for m in self.methods:
                if m != best:
                    self.compare(best, m)
        self.line(f"mean of {len(self.tasks)}", [self.mean(m) for m in self.methods])
