#!/usr/bin/env python3
"""The experiments of the T-Few paper (arXiv 2205.05638) through SQL, on any backbone, written as one HTML page.

Parts (--parts):
  held-out   its table 1: training on a few-shot file of a task, testing on the rows of the task's other files; zero-shot and
             in-context beside it. Medians and quartiles over files and prompts.
  methods    its figure 2: the same with every method, the first prompt only
  losses     its table 10: the same without unlikelihood, without length normalisation, without both, and, with --init, without the
             pre-trained vectors
  variants   what users of (IA)³ have tried since: AdamW, a moving average, more vectors, LoRA together with (IA)³, an ensemble
  raft       its table 2: RAFT's tasks in five folds, as scripts/raft does it
Figure 3, accuracy against FLOPs, comes from `held-out` and ia3_cost.

What was found out is kept in --results: a second run goes on where the first one stopped, and with other options it uses what is known. Trials
are in an order in which every part has something early: all tasks with the first file and the first prompt, then the second file.
"""

import argparse
import datetime
import json
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import paper_report
import paper_tasks
import raft
import raft_baselines
import raft_report
from paper_report import IN_CONTEXT, TFEW, ZERO_SHOT

try:
    import psycopg2
    from psycopg2.extras import Json
except ImportError:
    psycopg2 = None  # --help works without it

PARTS = ["held-out", "methods", "losses", "variants", "raft"]
# Figure 2. Options are those of ia3_train; what the server does not know is left out.
METHODS = [
    ("(IA)³", {}),
    ("LoRA", {"method": "lora"}),
    ("BitFit", {"method": "bitfit"}),
    ("LayerNorm", {"method": "layernorm"}),
    ("Prompt tuning (10)", {"method": "prompt", "prompt_length": 10}),
    ("Prompt tuning (100)", {"method": "prompt", "prompt_length": 100}),
    ("Prefix tuning", {"method": "prefix"}),
    ("Adapter", {"method": "adapter"}),
    ("Compacter", {"method": "compacter"}),
    ("Compacter++", {"method": "compacter++"}),
    ("Intrinsic SAID (20K)", {"method": "said", "intrinsic_dim": 20000}),
    ("Intrinsic SAID (500K)", {"method": "said", "intrinsic_dim": 500000}),
    ("FISH Mask (0.2%)", {"method": "fish", "keep_ratio": 0.002}),
    ("FISH Mask (0.02%)", {"method": "fish", "keep_ratio": 0.0002}),
    ("Full fine-tuning", {"method": "full"}),
]
LOSSES = [
    ("without unlikelihood", {"unlikelihood_weight": 0}),
    ("without length normalisation", {"length_norm_weight": 0}),
    ("without both", {"unlikelihood_weight": 0, "length_norm_weight": 0}),
]
VARIANTS = [
    ("AdamW", {"optimizer": "adamw"}),
    ("moving average (0.99)", {"ema": 0.99}),
    ("vectors on q and o too", {"targets": ["q", "k", "v", "o", "wo"]}),
    ("LoRA and (IA)³", {"method": "lora", "vectors": True}),
    ("ensemble of 5", {"ensemble": 5}),
]
NOT_PRETRAINED = ("without pre-training", {"init": "none"})
LONGEST = 256  # tokens of an input, as T-Few has it
SCHEMA = """
CREATE EXTENSION IF NOT EXISTS ia3;
CREATE SCHEMA IF NOT EXISTS paper;
DROP TABLE IF EXISTS paper.example;
CREATE TABLE paper.example (task text, number int, fields jsonb, choices text[], label text, PRIMARY KEY (task, number));
"""
TASK = "paper_trial"  # the task of ia3 that a trial trains


class Trial(NamedTuple):
    part: str
    task: str
    seed: int  # of the few-shot file
    prompt: int  # number of the template
    name: str
    options: dict  # of ia3_train


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="../shared/data", help="folder with t-few/few_shot/ and, for the part raft, raft/")
    p.add_argument("--dsn", default="", help="the server (scripts/paper makes one)")
    p.add_argument("--backbone", help="name in ia3.backbones, or, for scripts/paper's own server, NAME=DIRECTORY")
    p.add_argument("--init", help="task whose vectors training starts from, such as T-Few's pre-trained (IA)³")
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--tasks", default="held-out", help="comma-separated; held-out: the paper's eleven; all: also boolq and sst2")
    p.add_argument("--raft-tasks", default="all")
    p.add_argument("--seeds", type=int, default=5, help="few-shot files of a task (5)")
    p.add_argument("--prompts", type=int, default=3, help="templates of a task (3)")
    p.add_argument("--templates", help='file: {"rte": ["{premise} …", …], …}, other templates')
    p.add_argument("--methods", help="of figure 2, by the names in the page, comma-separated (all)")
    p.add_argument("--steps", type=int, default=1000, help="of (IA)³; methods for which T-Few has half as many get half as many")
    p.add_argument("--test-rows", type=int, default=1000, help="at most, of a task and file")
    p.add_argument("--shots", type=int, default=4, help="examples in the prompt of the in-context method (4)")
    p.add_argument("--time-limit", type=float, help="minutes, after which the page is written from what is known")
    p.add_argument("--results", help="file that keeps what was found out")
    p.add_argument("--out", default="paper.html")
    p.add_argument("--quiet", action="store_true", help="no progress on stderr")
    args = p.parse_args()
    args.parts = args.parts.split(",")
    args.tasks = {"held-out": paper_tasks.HELD_OUT, "all": list(paper_tasks.TASKS)}.get(args.tasks) or args.tasks.split(",")
    args.raft_tasks = raft.TASKS if args.raft_tasks == "all" else args.raft_tasks.split(",")
    args.methods = args.methods.split(",") if args.methods else [name for name, _ in METHODS]
    known = {"part": PARTS, "task": paper_tasks.TASKS, "RAFT task": raft.TASKS, "method": [name for name, _ in METHODS]}
    for what, given in (("part", args.parts), ("task", args.tasks), ("RAFT task", args.raft_tasks), ("method", args.methods)):
        for unknown in set(given) - set(known[what]):
            p.error(f"unknown {what} {unknown!r}")
    args.templates = {name: t.templates for name, t in paper_tasks.TASKS.items()} | (
        json.loads(Path(args.templates).read_text(encoding="utf-8")) if args.templates else {})
    return args


def cost(cursor, options, tokens=103, steps=1000):
    """The row of ia3_cost for the session's backbone, as a dictionary; None where the server does not know the method or an option."""
    known = {k: v for k, v in options.items() if k in ("method", "prompt_length", "keep_ratio", "intrinsic_dim")}
    given = "".join(f", {name} => %s" for name in known)
    try:
        cursor.execute(f"SELECT * FROM ia3_cost(ia3_backbone_config(current_setting('ia3.backbone')), tokens => %s, steps => %s{given})",
                       (tokens, steps, *known.values()))
    except (psycopg2.errors.UndefinedFunction, psycopg2.errors.InvalidParameterValue):
        return None
    return dict(zip([c.name for c in cursor.description], cursor.fetchone()))


def trials(args, data, methods):
    """All trials, those first that give every part something. data: {task: paper_tasks.Data}"""
    init = {"init": args.init} if args.init else {}
    losses = [*LOSSES, *([NOT_PRETRAINED] if args.init else [])]
    for at in range(args.seeds):
        for prompt in range(args.prompts):
            for name, d in data.items():
                if at >= len(d.files) or prompt >= len(args.templates[name]):
                    continue
                seed = sorted(d.files)[at]
                of = lambda part, what, options: Trial(part, name, seed, prompt, what, options)
                if "held-out" in args.parts:
                    yield from (of("held-out", what, {}) for what in (ZERO_SHOT, IN_CONTEXT))
                    yield of("held-out", TFEW, init)
                if prompt == 0 and "methods" in args.parts:
                    yield from (of("methods", what, options | (init if what == TFEW else {})) for what, options in methods)
                if prompt == 0 and "losses" in args.parts:
                    yield of("losses", TFEW, init)
                    yield from (of("losses", what, init | options) for what, options in losses)
                if prompt == 0 and "variants" in args.parts:
                    yield of("variants", TFEW, init)
                    yield from (of("variants", what, options) for what, options in VARIANTS)


class Runner:
    """Makes trials, and keeps what came of them: the numbers of the right answers and of the given ones."""

    def __init__(self, args, cursor, data):
        self.args, self.cursor, self.data = args, cursor, data
        self.known = raft_report.Store(args.results)
        self.about = raft.backbone_of(cursor)

    def steps(self, trial):
        """T-Few has as many for each method as ia3_train has by default: half of (IA)³'s for some."""
        return self.args.steps // 2 if trial.options.get("method") in ("adapter", "compacter", "compacter++") else self.args.steps

    @staticmethod
    def kind(trial):
        return trial.name if trial.name in (ZERO_SHOT, IN_CONTEXT) else "trained"

    def key(self, t):
        """What decides the outcome. The part does not: (IA)³ is the same in all of them."""
        own = {ZERO_SHOT: [], IN_CONTEXT: [self.args.shots], "trained": [self.steps(t), sorted(t.options.items())]}[self.kind(t)]
        return ["paper", t.task, t.seed, self.kind(t), [self.about, self.args.templates[t.task][t.prompt], self.args.test_rows, *own]]

    def of(self, trial):
        """{"accuracy", "seconds"}, or None if it is not known."""
        key = self.key(trial)
        return self.known[key] if key in self.known else None

    def run(self, trial):
        started = time.monotonic()
        rows = paper_tasks.test_rows(self.data[trial.task], trial.task, trial.seed, self.args.test_rows)
        given = {ZERO_SHOT: self.zero_shot, IN_CONTEXT: self.in_context, "trained": self.trained}[self.kind(trial)](trial, rows)
        truth = self.data[trial.task].rows
        right = sum(given[i] == truth[i].choices[truth[i].right] for i in rows)
        self.known.add(self.key(trial), {"accuracy": right / len(rows), "rows": len(rows), "seconds": round(time.monotonic() - started, 1)})

    def answers(self, sql, *values):
        self.cursor.execute(sql, values[0] if isinstance(values[0], dict) else values)
        return dict(self.cursor.fetchall())

    def zero_shot(self, trial, rows):
        return self.answers("SELECT number, ia3_predict_zero_shot(ia3_render(%s, fields, choices), choices) FROM paper.example"
                            " WHERE task = %s AND number = ANY (%s)", self.args.templates[trial.task][trial.prompt], trial.task, rows)

    def in_context(self, trial, rows):
        """The bare backbone, with the file's first examples, one of each label first, before the question."""
        template = self.args.templates[trial.task][trial.prompt]
        self.cursor.execute("SET ia3.max_input_tokens = 8192")
        try:
            return self.answers(
                "WITH turns AS (SELECT *, array_position(%(train)s, number) AS at, row_number() OVER (PARTITION BY array_position(choices, label)"
                "   ORDER BY array_position(%(train)s, number)) AS turn FROM paper.example WHERE task = %(task)s AND number = ANY (%(train)s)),"
                " shots AS (SELECT string_agg(ia3_render(%(template)s, fields, choices) || ' ' || label, E'\\n\\n' ORDER BY turn, at) AS text"
                "   FROM (SELECT * FROM turns ORDER BY turn, at LIMIT %(shots)s) first)"
                " SELECT number, ia3_predict_zero_shot((SELECT text FROM shots) || E'\\n\\n' || ia3_render(%(template)s, fields, choices), choices)"
                "   FROM paper.example WHERE task = %(task)s AND number = ANY (%(rows)s)",
                {"train": self.data[trial.task].files[trial.seed], "task": trial.task, "template": template, "shots": self.args.shots, "rows": rows})
        finally:
            self.cursor.execute(f"SET ia3.max_input_tokens = {LONGEST}")

    def trained(self, trial, rows):
        data, a = self.data[trial.task], self.args
        fields = ", ".join(f"fields ->> '{name}' AS {name}" for name in data.rows[0].fields)
        query = self.cursor.mogrify(f"SELECT {fields}, choices, label FROM paper.example WHERE task = %s AND number = ANY (%s)"
                                    " ORDER BY array_position(%s, number)", (trial.task, *[data.files[trial.seed]] * 2)).decode()
        options = {"template": [a.templates[trial.task][trial.prompt]], "steps": self.steps(trial), "seed": trial.seed} | trial.options
        named = "".join(f", {name} => %s" for name in options)
        self.cursor.execute(f"SELECT ia3_train(%s, %s{named})", (TASK, query, *options.values()))
        try:
            return self.answers("SELECT number, ia3_predict(%s, fields, choices) FROM paper.example WHERE task = %s AND number = ANY (%s)",
                                TASK, trial.task, rows)
        finally:
            self.cursor.execute("SELECT ia3_drop(%s)", (TASK,))

    def time_left(self, todo):
        """Seconds, from what trials of each kind took so far, training per step; None before one has been made."""
        kinds = {}
        for key, value in self.known.known.items():
            key = json.loads(key)
            if key[0] == "paper" and key[4][0] == self.about:
                steps = key[4][3] if key[3] == "trained" else 1
                kinds.setdefault(key[3], []).append(value["seconds"] / steps)
        if any(self.kind(t) not in kinds for t in todo):
            return None
        steps = lambda t: self.steps(t) if self.kind(t) == "trained" else 1
        return sum(statistics.mean(kinds[self.kind(t)]) * steps(t) for t in todo)


def load(cursor, data):
    for name, d in data.items():
        for i, row in enumerate(d.rows):
            cursor.execute("INSERT INTO paper.example VALUES (%s, %s, %s, %s, %s)", (name, i, Json(row.fields), row.choices, row.choices[row.right]))


def raft_results(args, runner, cursor, over):
    """{task: {method: (accuracy, macro-F1)}} of the tasks that are done before the time is over"""
    settings_of = Path(args.data) / "t-few" / "raft_prompt_construction_settings.jsonl"
    settings = [json.loads(line) for line in settings_of.read_text(encoding="utf-8").splitlines()]
    a = argparse.Namespace(data=args.data, dsn=args.dsn, tasks=args.raft_tasks, folds=5, seeds=[42], steps=args.steps, jobs=1, shots=args.shots,
                           results=args.results, labels_in_prompt="comma", piece_tokens=256, raw_banking_labels=False, banking_lm_only=False,
                           loss_averaging="batch", quiet=args.quiet)
    cursor.execute(raft.SCHEMA)
    cursor.execute(raft.SESSION)
    of, result = raft.Runner(a, runner.about), {}
    of.known = runner.known  # one file for all
    for name in a.tasks:
        if over():
            break
        task = raft.load(cursor, a, name, settings)
        truth = {r.id: r.label for r in task.rows}
        found = {}
        for method in ("majority", ZERO_SHOT, "ia3"):
            if method == "majority" and raft_baselines.import_error:
                continue
            said = of.predictions(task, method, 42)
            found[method] = raft_report.Report.of_task(task.choices, [[(truth[i], said[i]) for i in sorted(truth)]])
        result[name] = found
    return result


def said(seconds):
    if seconds is None:
        return "time left unknown"
    minutes = round(seconds / 60)
    return f"about {minutes // 60} h {minutes % 60} min left" if minutes >= 60 else f"about {max(1, minutes)} min left"


def main():
    args = arguments()
    if psycopg2 is None:
        sys.exit("paper.py: psycopg2 is missing; scripts/paper makes an environment that has it")
    connection = psycopg2.connect(args.dsn)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SET client_min_messages = warning; " + SCHEMA)
    if args.backbone:
        cursor.execute("SELECT set_config('ia3.backbone', %s, false)", (args.backbone.partition("=")[0],))
    cursor.execute(f"SET ia3.max_input_tokens_limit = 8192; SET ia3.max_input_tokens = {LONGEST}")
    cursor.execute("SELECT ia3_predict_zero_shot('warm up', ARRAY['a', 'b'])")
    data = {name: paper_tasks.read(Path(args.data) / "t-few" / "few_shot", name) for name in args.tasks} if set(args.parts) - {"raft"} else {}
    load(cursor, data)
    costs = {name: cost(cursor, options, steps=args.steps) for name, options in METHODS}
    methods = [(name, options) for name, options in METHODS if costs[name] and name in args.methods]
    runner = Runner(args, cursor, data)
    ends = time.monotonic() + 60 * args.time_limit if args.time_limit is not None else float("inf")
    over = lambda: time.monotonic() > ends
    everything = list(trials(args, data, methods))
    unique = {json.dumps(runner.key(t)): t for t in reversed(everything)}
    todo = [t for key, t in reversed(unique.items()) if key not in runner.known.known]
    while todo and not over():
        t = todo.pop(0)
        runner.run(t)
        if not args.quiet:
            found = runner.of(t)
            print(f"  {len(unique) - len(todo)} of {len(unique)}: {t.task}, file {t.seed}, prompt {t.prompt + 1}, {t.name}: {found['accuracy']:.3f},"
                  f" {found['seconds']:.0f} s; {said(runner.time_left(todo))}", file=sys.stderr, flush=True)
    on_raft = raft_results(args, runner, cursor, over) if "raft" in args.parts else {}
    result = paper_report.Result(
        trials=[(t, runner.of(t)) for t in everything], costs=costs, raft=on_raft,
        about={"backbone": f"{args.backbone or 'the default'}, {runner.about[1]}, digest {runner.about[0][:12]}", "ia3": runner.about[2],
               "steps": args.steps, "made": datetime.date.today().isoformat(), "trials": f"{len(unique) - len(todo)} of {len(unique)}",
               "methods that this version lacks": ", ".join(n for n, c in costs.items() if not c) or "nothing"})
    Path(args.out).write_text(paper_report.html_of(result), encoding="utf-8")
    print("\n".join(paper_report.lines_of(result)))
    print(f"{args.out}: {len(unique) - len(todo)} of {len(unique)} trials")


if __name__ == "__main__":
    main()
