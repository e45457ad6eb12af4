"""What a checkpoint is worth: the tasks for choosing among models, 50 labelled rows each, through the engine.

    develop.py --engine FILE --sets DIR --backbone DIR [--method M,...] [--steps N] [--seeds N] [--results FILE]

Methods: zero-shot, and what `ia3_engine train` has: ia3, lora, bitfit and so on. For each task, and seed, 50 rows are drawn to train
on and up to 500 others to test with. Prints accuracy and macro-F1 over the labels that occur among the test rows, and means. With
--results each number is stored, by the digest of the checkpoint's files among other things, and a run that was stopped continues.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import prompts

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))
from raft_report import Store, accuracy, macro_f1  # noqa: E402

TASKS = {  # the set's name: the instruction
    "psytar_reaction": "Label the sentence of a patient's review based on whether it reports an adverse drug reaction.",
    "psytar_types": "Label the sentence of a patient's review of a drug by what it reports.",
    "tosdr_points": "Rate the point of a terms of service or privacy policy for the users of the service.",
    "edos_sexist": "Label whether the post is sexist.",
    "crisislex_t26": "Label the tweet of a disaster by the information that it gives.",
    "it_tickets": "Which topic does this ticket belong to?",
    "hint3_sofmattress": "The following is a query of a customer of a shop for mattresses. Classify the query.",
    "hint3_powerplay11": "The following is a query of a customer of a fantasy cricket game. Classify the query.",
    "review_depression": "Label whether the paper should be included in a systematic review of animal models of depression.",
}
SHOTS, TESTS, LONGEST = 50, 500, 1500
MOST_LISTED = 1200  # characters


def prompt(instruction, labels, row):
    """In the form of RAFT's prompts, on one line."""
    first = instruction
    if sum(map(len, labels)) <= MOST_LISTED:
        first += " Possible labels: " + ", ".join(labels)
    fields = [f"{k.capitalize()}: {v[:LONGEST]}" for k, v in row.fields.items()]
    return " ".join(" ".join([first, *fields, "Label:"]).split())


def draw(rows, seed):
    """(rows to train on, rows to test with)"""
    chosen = random.Random(seed).sample(rows, min(SHOTS + TESTS, len(rows)))
    return chosen[:SHOTS], chosen[SHOTS:]


class Engine:
    def __init__(self, program, backbone, threads):
        self.program, self.options = program, ["--backbone", backbone, "--threads", str(threads), "--max-input-tokens", "512"]

    def run(self, command, lines, *options):
        done = subprocess.run([self.program, command, *self.options, *options], input="".join(f"{x}\n" for x in lines),
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout

    def predict(self, texts, labels, adapter=None):
        out = self.run("score", texts, "--choices", "|".join(labels), *(["--adapter", adapter] if adapter else []))
        return [line.split("\t")[0] for line in out.splitlines()]

    def train(self, lines, labels, adapter, method, steps, seed):
        self.run("train", lines, "--choices", "|".join(labels), "--out", adapter, "--method", method, "--steps", str(steps), "--seed",
                 str(seed))


def measured(engine, about, rows, name, method, seed, steps):
    labels = about["labels"]
    shots, tests = draw(rows, seed)
    texts = [prompt(TASKS[name], labels, row) for row in tests]
    with tempfile.TemporaryDirectory() as folder:
        adapter = None
        if method != "zero-shot":
            adapter = f"{folder}/adapter"
            engine.train([f"{prompt(TASKS[name], labels, row)}\t{row.label}" for row in shots], labels, adapter, method, steps, seed)
        pairs = [(row.label, said) for row, said in zip(tests, engine.predict(texts, labels, adapter), strict=True)]
        return accuracy(pairs), macro_f1(pairs)


def digest(folder):
    """Of the weights and the tokenizer."""
    h = hashlib.sha256()
    for name in ("model.safetensors", "spiece.model"):
        with open(os.path.join(folder, name), "rb") as f:
            h.update(f.read())
    return h.hexdigest()[:16]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("engine", "sets", "backbone"):
        p.add_argument(f"--{name}", required=True)
    p.add_argument("--method", default="zero-shot,ia3")
    p.add_argument("--tasks", default=",".join(TASKS))
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--results")
    return p.parse_args()


def main():
    o = arguments()
    engine, sets, known = Engine(o.engine, o.backbone, o.threads), prompts.Sets(o.sets, "dev"), Store(o.results)
    checkpoint = digest(o.backbone)
    methods, tasks = o.method.split(","), o.tasks.split(",")
    print(f"{'task':24}" + "".join(f"{m:>16}" for m in methods))
    total = {m: [] for m in methods}
    for name in tasks:
        cells = []
        for m in methods:
            numbers = []
            for seed in range(o.seeds):
                key = [checkpoint, name, m, seed, 0 if m == "zero-shot" else o.steps]
                if key not in known:
                    known.add(key, measured(engine, sets.about[name], sets.rows[name], name, m, seed, o.steps))
                numbers.append(known[key])
            mean = [sum(x) / len(numbers) for x in zip(*numbers)]
            total[m].append(mean)
            cells.append("%16s" % ("%.3f / %.3f" % tuple(mean)))
        print(f"{name:24}" + "".join(cells), flush=True)
    means = ["%.3f / %.3f" % tuple(sum(x) / len(total[m]) for x in zip(*total[m])) for m in methods]
    print(f"{f'mean of {len(tasks)}':24}" + "".join(f"{m:>16}" for m in means))


if __name__ == "__main__":
    sys.exit(main())
