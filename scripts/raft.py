#!/usr/bin/env python3
"""RAFT through SQL: zero-shot, in-context, (IA)3 and TF-IDF + logistic regression on the same folds.

Prompts follow T-Few's RaftTemplate: pieces are the instruction (with the labels), then "Field: value" for every
non-empty field of the task in the order of the data's columns, "\\nLabel:" after the last. Each piece is cut to
256 tokens on its own, so a prompt may be longer than that, and a long last field loses its "Label:", as in the
original. The pieces are joined by one space: SentencePiece gives the same tokens as for the pieces one by one.

Everything but the logistic regression happens in SQL, the metrics of all three methods included. Folds are
stratified and depend on nothing but the seed. macro-F1 is taken over the labels of the task, from the pooled
out-of-fold predictions.
"""

import argparse
import csv
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import_error = None
try:
    import psycopg2
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
except ImportError as e:  # --help works without them
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
METHODS = ["zero-shot", "in-context", "ia3", "tf-idf"]
NOT_FIELDS = ("Label", "ID")

# The pieces of a prompt are cut one by one, as T-Few does; the whole must fit.
SESSION = "SET client_min_messages = warning; SET ia3.max_input_tokens_limit = 8192; SET ia3.max_input_tokens = 8192"
SCHEMA = """
CREATE EXTENSION IF NOT EXISTS ia3;
CREATE SCHEMA IF NOT EXISTS raft;
CREATE TABLE IF NOT EXISTS raft.example (
    task text, id int, fold int, label text, prompt text, plain text, PRIMARY KEY (task, id));
CREATE TABLE IF NOT EXISTS raft.task (task text PRIMARY KEY, labels text[], choices text[]);
CREATE TABLE IF NOT EXISTS raft.prediction (
    task text, id int, method text, predicted text, PRIMARY KEY (task, id, method));
-- accuracy, and the mean over the task's labels of F1 = 2 tp / (2 tp + fp + fn)
CREATE OR REPLACE VIEW raft.result AS
WITH joined AS (
    SELECT p.task, p.method, e.label, p.predicted FROM raft.prediction p JOIN raft.example e USING (task, id)),
per_label AS (
    SELECT j.task, j.method, l.label,
           count(*) FILTER (WHERE j.label = l.label AND j.predicted = l.label) AS tp,
           count(*) FILTER (WHERE j.label = l.label OR j.predicted = l.label) AS tp_fp_fn
      FROM joined j JOIN raft.task t USING (task), unnest(t.labels) AS l(label)
     GROUP BY 1, 2, 3)
SELECT a.task, a.method, a.n, a.accuracy, f.macro_f1
  FROM (SELECT task, method, count(*) AS n, avg((label = predicted)::int)::float8 AS accuracy
          FROM joined GROUP BY 1, 2) a
  JOIN (SELECT task, method, avg(2.0 * tp / greatest(tp + tp_fp_fn, 1))::float8 AS macro_f1
          FROM per_label GROUP BY 1, 2) f USING (task, method);
"""


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="../shared/data", help="folder with raft/ and t-few/")
    p.add_argument("--dsn", default="", help="the server (scripts/raft makes one)")
    p.add_argument("--tasks", default="all", help="comma-separated names, all by default")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--seed", type=int, default=42, help="of folds and training")
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--jobs", type=int, default=1, help="folds trained at the same time")
    p.add_argument("--shots", type=int, default=4, help="examples in the prompt of the in-context method")
    p.add_argument("--methods", default=",".join(METHODS))
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
    return p.parse_args()


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


def load(cursor, args, task, settings):
    """Reads one task into raft.task and raft.example."""
    with open(Path(args.data) / "raft" / task / "train.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    fields, instruction = settings[0][task], settings[1][task]
    labels = sorted({r["Label"] for r in rows})
    clean = clean_banking if task == "banking_77" and not args.raw_banking_labels else str
    choices = [clean(label) for label in labels]
    fold = folds_of([r["Label"] for r in rows], args.folds, args.seed)
    limit = 512 if task == "banking_77" else args.piece_tokens
    cutter = Cutter(cursor)

    cursor.execute("DELETE FROM raft.task WHERE task = %s", (task,))
    cursor.execute("DELETE FROM raft.example WHERE task = %s", (task,))
    cursor.execute("DELETE FROM raft.prediction WHERE task = %s", (task,))
    cursor.execute("INSERT INTO raft.task VALUES (%s, %s, %s)", (task, choices, choices))
    for r, k in zip(rows, fold):
        columns = {c: r[c] for c in r if c not in NOT_FIELDS}
        parts = pieces(task, columns, fields, instruction, choices, args.labels_in_prompt)
        # only the last piece of a prompt carries </s>; the others may fill the limit with text
        cut = [cutter.cut(x, limit + 1) for x in parts[:-1]] + [cutter.cut(parts[-1], limit)]
        plain = " ".join(f"{r[c]}" for c in r if c in fields)
        cursor.execute(
            "INSERT INTO raft.example VALUES (%s, %s, %s, %s, %s, %s)",
            (task, int(r["ID"]), k, clean(r["Label"]), " ".join(cut), plain),
        )


def zero_shot(cursor, task):
    cursor.execute(
        "INSERT INTO raft.prediction SELECT e.task, e.id, 'zero-shot', ia3_predict(e.prompt, t.choices)"
        " FROM raft.example e JOIN raft.task t USING (task) WHERE task = %s",
        (task,),
    )


def in_context(cursor, args, task):
    """The bare backbone again, with --shots examples of the other folds written before the prompt: the same ones
    for all rows of a fold, one of each label first."""
    cursor.execute(
        "WITH shot AS ("
        "  SELECT k AS fold, s.prompt, s.label, row_number() OVER (PARTITION BY k ORDER BY s.turn, s.id) AS n"
        "    FROM generate_series(0, %s - 1) k,"
        "         LATERAL (SELECT *, row_number() OVER (PARTITION BY label ORDER BY id) AS turn"
        "                    FROM raft.example WHERE task = %s AND fold <> k) s)"
        " INSERT INTO raft.prediction SELECT e.task, e.id, 'in-context',"
        "   ia3_predict((SELECT string_agg(s.prompt || ' ' || s.label, ' ' ORDER BY s.n)"
        "                  FROM shot s WHERE s.fold = e.fold AND s.n <= %s) || ' ' || e.prompt, t.choices)"
        "  FROM raft.example e JOIN raft.task t USING (task) WHERE e.task = %s",
        (args.folds, task, args.shots, task),
    )


def train_fold(args, task, k):
    """Trains on all folds but k and predicts fold k; returns the training's seconds."""
    name = f"raft_{task}_{k}"
    weights = (1, 0, 0) if task == "banking_77" and args.banking_lm_only else (1, 1, 1)
    connection = psycopg2.connect(args.dsn)
    try:
        with connection, connection.cursor() as c:
            c.execute(SESSION)
            c.execute("SELECT choices FROM raft.task WHERE task = %s", (task,))
            choices = c.fetchone()[0]
            query = c.mogrify(
                "SELECT prompt AS text, label FROM raft.example WHERE task = %s AND fold <> %s ORDER BY id", (task, k)
            ).decode()
            start = time.monotonic()
            c.execute(
                "SELECT ia3_train(%s, %s, choices => %s, steps => %s, seed => %s, loss_averaging => %s, truncate => 'end',"
                " lm_weight => %s, unlikelihood_weight => %s, length_norm_weight => %s)",
                (name, query, choices, args.steps, args.seed, args.loss_averaging, *weights),
            )
            seconds = time.monotonic() - start
            c.execute(
                "INSERT INTO raft.prediction SELECT task, id, 'ia3', ia3_predict(%s, prompt)"
                " FROM raft.example WHERE task = %s AND fold = %s",
                (name, task, k),
            )
            return seconds
    finally:
        connection.close()


def trained(args, task):
    seconds = []
    with ThreadPoolExecutor(max_workers=args.jobs) as pool:
        for s in pool.map(lambda k: train_fold(args, task, k), range(args.folds)):
            seconds.append(s)
            if not args.quiet:
                print(f"  {task}: fold {len(seconds)} of {args.folds}, {s:.0f} s", file=sys.stderr, flush=True)
    return sum(seconds) / len(seconds)


def tf_idf(cursor, args, task):
    """The usual strong little baseline: word 1-2-grams, sublinear tf, balanced logistic regression."""
    cursor.execute("SELECT id, fold, label, plain FROM raft.example WHERE task = %s ORDER BY id", (task,))
    rows = cursor.fetchall()
    for k in range(args.folds):
        train = [r for r in rows if r[1] != k]
        test = [r for r in rows if r[1] == k]
        if len({r[2] for r in train}) == 1:
            predicted = [train[0][2]] * len(test)
        else:
            model = make_pipeline(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                LogisticRegression(C=10, class_weight="balanced", max_iter=2000),
            )
            model.fit([r[3] for r in train], [r[2] for r in train])
            predicted = model.predict([r[3] for r in test])
        for r, y in zip(test, predicted):
            cursor.execute("INSERT INTO raft.prediction VALUES (%s, %s, 'tf-idf', %s)", (task, r[0], str(y)))


def line(name, results, methods, tail=""):
    cells = [f"{results[m][0]:.3f} / {results[m][1]:.3f}" if m in results else "-" for m in methods]
    print(f"{name:32}" + "".join(f"{c:>16}" for c in cells) + tail, flush=True)


def main():
    args = arguments()
    if import_error:
        sys.exit(f"raft.py: {import_error}; scripts/raft makes an environment that has it")
    tasks = TASKS if args.tasks == "all" else args.tasks.split(",")
    methods = args.methods.split(",")
    for unknown in sorted(set(tasks) - set(TASKS)) + sorted(set(methods) - set(METHODS)):
        sys.exit(f"raft.py: unknown task or method {unknown!r}")
    with open(Path(args.data) / "t-few" / "raft_prompt_construction_settings.jsonl", encoding="utf-8") as f:
        settings = [json.loads(x) for x in f]

    connection = psycopg2.connect(args.dsn)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(SESSION)
    cursor.execute(SCHEMA)
    print(f"accuracy / macro-F1, {args.folds} folds, {args.steps} steps, labels in the prompt: {args.labels_in_prompt}")
    print(f"{'task':32}" + "".join(f"{m:>16}" for m in methods), flush=True)
    total = {m: [] for m in methods}
    for task in tasks:
        load(cursor, args, task, settings)
        tail = ""
        if "zero-shot" in methods:
            zero_shot(cursor, task)
        if "in-context" in methods:
            in_context(cursor, args, task)
        if "tf-idf" in methods:
            tf_idf(cursor, args, task)
        if "ia3" in methods:
            tail = f"   {trained(args, task):.0f} s per training"
        cursor.execute("SELECT method, accuracy, macro_f1 FROM raft.result WHERE task = %s", (task,))
        results = {m: (a, f) for m, a, f in cursor.fetchall()}
        for m in methods:
            total[m].append(results[m])
        line(task, results, methods, tail)
    means = {m: tuple(sum(x) / len(v) for x in zip(*v)) for m, v in total.items()}
    line(f"mean of {len(tasks)}", means, methods)


if __name__ == "__main__":
    main()
