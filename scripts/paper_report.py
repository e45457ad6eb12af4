"""What scripts/paper found out, as tables and figures: medians and quartiles over few-shot files and prompts, and means over tasks."""

import statistics
from typing import NamedTuple

import paper_page

ZERO_SHOT, IN_CONTEXT, TFEW = "zero-shot", "in-context", "(IA)³"


class Result(NamedTuple):
    trials: list  # [(paper.Trial, {"accuracy", "rows", "seconds"} or None)]
    costs: dict  # {method: row of ia3_cost or None}
    raft: dict  # {task: {method: (accuracy, macro-F1)}}
    about: dict


class Spread(NamedTuple):
    median: float
    low: float  # the first quartile
    high: float  # the third one
    n: int

    def __str__(self):
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.n > 1 else f"{self.median:.3f}"


def spread(values):
    """Quartiles are those between the smallest and the largest value (numpy's way), None without values."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def by_task(result, part):
    """{task: {name: Spread}} in the order of the trials"""
    values = {}
    for t, found in result.trials:
        if t.part == part:
            of_task = values.setdefault(t.task, {}).setdefault(t.name, [])
            of_task += [found["accuracy"]] if found else []
    return {task: {name: spread(v) for name, v in names.items()} for task, names in values.items()}


def means(tasks, names):
    """{name: mean over tasks of the medians}, over those tasks for which all names have one; and how many these are."""
    whole = [t for t in tasks.values() if all(t.get(name) for name in names)]
    return ({name: sum(t[name].median for t in whole) / len(whole) for name in names} if whole else {}), len(whole)


def names_in(tasks):
    return list(dict.fromkeys(name for t in tasks.values() for name in t if t[name]))


def table(tasks, names):
    rows = [[task, *(found.get(name) and str(found[name]) for name in names)] for task, found in tasks.items()]
    mean, n = means(tasks, names)
    return paper_page.table(["task", *names], rows + ([[f"mean of {n}", *(f"{mean[name]:.3f}" for name in names)]] if mean else []))


def held_out(result):
    tasks = by_task(result, "held-out")
    names = names_in(tasks)
    if not names:
        return None
    content = [table(tasks, names), "<p class=note>Accuracy on the rows of a task's other files: the median over few-shot files and prompts, and the "
               "quartiles.</p>"]
    return "Held-out tasks (the paper's table 1)", content


def methods(result):
    tasks = by_task(result, "methods")
    names = names_in(tasks)
    mean, n = means(tasks, names)
    if not mean:
        return None
    counted = [(name, result.costs[name]["parameters"]) for name in names]
    rows = [[name, f"{parameters:,}", f"{mean[name]:.3f}"] for name, parameters in counted]
    each = [[name, *(found.get(name) and str(found[name]) for found in tasks.values())] for name in names]
    content = [paper_page.table(["method", "parameters trained", f"accuracy, mean of {n} tasks"], rows),
               paper_page.scatter([(name, parameters, mean[name]) for name, parameters in counted], "parameters trained", "accuracy"),
               paper_page.table(["method", *tasks], each)]
    return "Methods (the paper's figure 2)", content


def flops(result):
    tasks = by_task(result, "held-out")
    names = [name for name in (ZERO_SHOT, IN_CONTEXT, TFEW) if name in names_in(tasks)]
    mean, n = means(tasks, names)
    costs = result.costs[TFEW]
    if not mean or not costs:
        return None
    columns = {ZERO_SHOT: "inference_flops", IN_CONTEXT: "icl_flops", TFEW: "inference_flops"}
    points = [(name, costs[columns[name]], mean[name]) for name in names]
    rows = [[name, f"{x:.2e}", f"{costs['training_flops']:.2e}" if name == TFEW else "0", f"{y:.3f}"] for name, x, y in points]
    content = [paper_page.table(["", "FLOPs for an example", "FLOPs of training", f"accuracy, mean of {n} tasks"], rows),
               paper_page.scatter(points, "FLOPs for an example", "accuracy"),
               "<p class=note>FLOPs are ia3_cost's exact ones, with the paper's lengths: 103 tokens an example, 41 examples of 98 tokens in a prompt.</p>"]
    return "Accuracy against FLOPs (the paper's figure 3)", content


def plain(result, part, heading):
    """A part of which there is no more than a table."""
    tasks = by_task(result, part)
    names = names_in(tasks)
    return (heading, [table(tasks, names)]) if names else None


def raft(result):
    if not result.raft:
        return None
    names = list(dict.fromkeys(name for found in result.raft.values() for name in found))
    cell = lambda found, name: f"{found[name][0]:.3f} / {found[name][1]:.3f}" if name in found else None
    rows = [[task, *(cell(found, name) for name in names)] for task, found in result.raft.items()]
    mean = {name: [sum(found[name][i] for found in result.raft.values()) / len(rows) for i in range(2)] for name in names
            if all(name in found for found in result.raft.values())}
    return "RAFT (the paper's table 2)", [paper_page.table(["accuracy / macro-F1", *names], rows + [[f"mean of {len(rows)}", *(cell(mean, n) for n in names)]]),
                                          "<p class=note>Five folds of the 50 labelled rows of each task.</p>"]


def html_of(result):
    about = "<dl>" + "".join(f"<dt>{paper_page.escaped(k)}</dt><dd>{paper_page.escaped(v)}</dd>" for k, v in result.about.items()) + "</dl>"
    parts = [held_out(result), methods(result), flops(result), plain(result, "losses", "Ingredients (the paper's table 10)"),
             plain(result, "variants", "Variants since the paper"), raft(result)]
    return paper_page.page("The T-Few paper, redone with ia3", [("What this is", [about]), *filter(None, parts)])


def lines_of(result):
    """The means, a line each."""
    out = []
    for part in ("held-out", "methods", "losses", "variants"):
        tasks = by_task(result, part)
        mean, n = means(tasks, names_in(tasks))
        out += [f"{part}, mean of {n} tasks: {name} {value:.3f}" for name, value in mean.items()]
    for name in dict.fromkeys(name for found in result.raft.values() for name in found):
        all_ = [found[name] for found in result.raft.values() if name in found]
        out.append(f"raft, mean of {len(all_)} tasks: {name} {sum(a for a, _ in all_) / len(all_):.3f} / {sum(f for _, f in all_) / len(all_):.3f}")
    return out
