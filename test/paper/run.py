#!/usr/bin/env python3
"""scripts/paper.py against a server, on files made for this, with a few steps: what it writes, and that it goes on where it stopped.

    run.py --socket DIR     talks to a running cluster as its superuser, in a database of its own, and prints TAP

psycopg2 has to be installed.
"""

import argparse
import csv
import html
import json
import random
import re
import subprocess
import sys
import tempfile
import xml.dom.minidom
from pathlib import Path

import psycopg2

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "ia3_paper"
THINGS = ["dog", "cat", "horse", "bird", "train", "ship", "tree", "house", "river", "song", "book", "king"]


class Tests:
    count = failed = 0

    def ok(self, passed, name, detail=""):
        self.count += 1
        self.failed += not passed
        print(f"{'ok' if passed else 'not ok'} {self.count} - {name}" + ("" if passed else "".join(f"\n#   {x}" for x in str(detail).splitlines())), flush=True)


def make_data(folder):
    """Two tasks with two few-shot files each, six rows a file, one of them in both; one RAFT task with ten rows."""
    r = random.Random(0)
    for task, row in (("rte", lambda a, b, i: {"premise": f"The {a} saw the {b}.", "hypothesis": f"There is a {b}.", "label": i % 2}),
                      ("copa", lambda a, b, i: {"premise": f"The {a} left.", "question": "cause", "choice1": f"It saw a {b}.",
                                                "choice2": f"It was a {b}.", "label": i % 2})):
        rows = [row(*r.sample(THINGS, 2), i) | {"idx": i} for i in range(11)]
        for seed, chosen in ((0, rows[:6]), (42, rows[5:])):
            path = folder / "t-few" / "few_shot" / task / "6_shot" / f"{seed}_seed.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(x) + "\n" for x in chosen), encoding="utf-8")
    (folder / "t-few" / "raft_prompt_construction_settings.jsonl").write_text(
        json.dumps({"overruling": ["Sentence"]}) + "\n" + json.dumps({"overruling": "Is it overruling?"}) + "\n", encoding="utf-8")
    (folder / "raft" / "overruling").mkdir(parents=True)
    with open(folder / "raft" / "overruling" / "train.csv", "w", newline="", encoding="utf-8") as f:
        w = csv.writer(f)
        w.writerow(["Sentence", "ID", "Label"])
        w.writerows([f"The {r.choice(THINGS)} is overruled.", i, ("overruling", "not overruling")[i % 2]] for i in range(10))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--socket", required=True)
    socket = p.parse_args().socket
    connection = psycopg2.connect(host=socket, user="postgres", dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as c:
        c.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        c.execute(f"CREATE DATABASE {DATABASE}")
    t = Tests()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run_tests(t, socket, Path(folder))
    finally:
        with connection.cursor() as c:
            c.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    print(f"1..{t.count}")
    sys.exit(t.failed > 0)


def run_tests(t, socket, folder):
    make_data(folder)

    def paper(*options, tasks="rte,copa"):
        command = [sys.executable, str(ROOT / "scripts" / "paper.py"), "--dsn", f"host={socket} user=postgres dbname={DATABASE}", "--data", str(folder),
                   "--tasks", tasks, "--raft-tasks", "overruling", "--seeds", "1", "--prompts", "1", "--steps", "2", "--methods", "(IA)³,LoRA",
                   "--results", str(folder / "results"), "--out", str(folder / "paper.html"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=900)

    none = paper("--time-limit", "0")
    t.ok(none.returncode == 0 and none.stdout.endswith("paper.html: 0 of 24 trials\n"), "without time there is a page without results", none.stdout + none.stderr)
    with psycopg2.connect(host=socket, user="postgres", dbname=DATABASE) as left, left.cursor() as c:
        c.execute("SELECT ia3_train('paper_trial', $$SELECT 'x' AS other, 'a' AS label UNION ALL SELECT 'y', 'b'$$, template => ARRAY['{other}'], method => 'lora', steps => 1)")
    first = paper("--parts", "held-out")
    lines = first.stderr.splitlines()
    t.ok(first.returncode == 0 and len(lines) == 6 and lines[-1].startswith("  6 of 6: copa, file 0, prompt 1, (IA)³: ")
         and "min left" in lines[-1], "one part, a line of progress each, beside what a killed run left", first.stderr)
    done = paper()
    lines = done.stderr.splitlines()
    t.ok(done.returncode == 0 and done.stdout.endswith("24 of 24 trials\n") and sum(" of 24: " in x for x in lines) == 18,
         "all parts: what is known is not done again", done.stdout + done.stderr)
    results = [json.loads(x) for x in (folder / "results").read_text(encoding="utf-8").splitlines()]
    trained = {k[1]: v for k, v in results if k[0] == "paper" and k[3] == "trained" and k[4][3:] == [2, []]}
    t.ok({task: v["rows"] for task, v in trained.items()} == {"rte": 5, "copa": 5}, "five rows of the other file are not in the first one", trained)
    shown = re.findall(r"losses, mean of 2 tasks: (.*) ([\d.]+)\n", done.stdout)
    mean = sum(v["accuracy"] for v in trained.values()) / 2
    t.ok([n for n, _ in shown] == ["(IA)³", "without unlikelihood", "without length normalisation", "without both"]
         and abs(float(dict(shown)["(IA)³"]) - mean) < 6e-4, "means of the part losses", done.stdout)
    t.ok(re.search(r"raft, mean of 1 tasks: zero-shot [\d.]+ / [\d.]+\n", done.stdout), "RAFT is there", done.stdout)
    page = (folder / "paper.html").read_text(encoding="utf-8")
    headings = [html.unescape(x) for x in re.findall(r"<h2>(.*?)</h2>", page)]
    t.ok(headings == ["What this is", "Held-out tasks (the paper's table 1)", "Methods (the paper's figure 2)",
                      "Accuracy against FLOPs (the paper's figure 3)", "Ingredients (the paper's table 10)", "Variants since the paper", "RAFT (the paper's table 2)"], "parts of the page", headings)
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    circles = [xml.dom.minidom.parseString(p).getElementsByTagName("circle").length for p in plots]
    t.ok(circles == [2, 3], "plots are well-formed, with a point for each method", circles)
    again = paper()
    t.ok(again.returncode == 0 and again.stderr == "" and again.stdout == done.stdout, "a second time there is nothing to do", again.stderr)
    other = paper("--parts", "held-out", "--steps", "3", tasks="rte")
    t.ok(other.stderr.count("\n") == 1 and "(IA)³" in other.stderr, "other steps: only what depends on them is done again", other.stderr)
    wrong = paper(tasks="rte,nothing")
    t.ok(wrong.returncode == 2 and "unknown task 'nothing'" in wrong.stderr, "a task that does not exist", wrong.stderr)
    init = paper("--parts", "losses", "--init", "nothing", tasks="rte")
    t.ok(init.returncode == 1 and '"nothing"' in init.stderr, "vectors to start from that do not exist", init.stderr[-300:])


if __name__ == "__main__":
    main()
