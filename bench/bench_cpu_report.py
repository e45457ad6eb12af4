"""The table of scripts/bench cpu: printed row by row, and written to a file of bench/results."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time


def processor():
    """The processor's name as Linux gives it."""
    with open("/proc/cpuinfo") as f:
        found = re.search(r"(?m)^model name\s*: (.*)$", f.read())
    return found.group(1).strip() if found else os.uname().machine


def fresh(path):
    """The path, or with a number in it if there is such a file already."""
    stem, n = path.removesuffix(".md"), 2
    while os.path.exists(path):
        path, n = f"{stem}-{n}.md", n + 1
    return path


def commit():
    """The commit that was measured, with "-dirty" after it if the tree has changes."""
    done = subprocess.run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty"],
                          capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def command():
    """What was typed, without the folders that scripts/bench adds."""
    words, given = [], iter(sys.argv[1:])
    for word in given:
        if word in ("--work", "--build", "--data", "--tokenizer"):
            next(given)
        else:
            words.append(word)
    return " ".join(["scripts/bench cpu", shlex.join(words)]).strip()


class Report:
    """The rows and notes so far. After `minutes` no further part is to begin."""

    def __init__(self, minutes):
        self.started, self.minutes = time.monotonic(), minutes
        self.rows = []
        self.notes = []
        self.short = 0

    def row(self, what, measured, ratio=None, goal=None, ok=None):
        """ratio, goal: numbers, the goal a least one; ok decides where the goal is of another form (goal: text)."""
        verdict = ""
        if goal is not None:
            if ok is None:
                ok = ratio >= goal
                goal = f"≥ {goal:g}"
            verdict = "ok" if ok else "short"
            self.short += not ok
        ratio = "" if ratio is None else f"{ratio:.2f}"
        self.rows.append((what, measured, ratio, goal or "", verdict))
        print(f"{what:<74} {measured:>22} {ratio:>7} {goal or '':<10}{verdict}", flush=True)

    def runs(self, what, made, asked):
        if made < asked:
            self.note(f"{what}: {made} {'run' if made == 1 else 'runs'} instead of {asked}, for the time that a part may take")

    def minutes_taken(self):
        return (time.monotonic() - self.started) / 60

    def late(self, what):
        """Whether a part is left out because the time is used up."""
        late = self.minutes_taken() >= self.minutes
        if late:
            self.note(f"{what}: skipped (after {self.minutes_taken():.0f} minutes; --minutes)")
        return late

    @contextlib.contextmanager
    def part(self, what):
        """Notes how long a part took."""
        started = time.monotonic()
        yield
        self.note(f"{what}: took {time.monotonic() - started:.0f} s")

    def note(self, text):
        self.notes.append(text)
        print(f"  {text}", flush=True)

    def markdown(self, isa, shapes, intro):
        """isa: the name of the instructions; shapes: the names of the backbones; intro: paragraphs."""
        lines = [f"# The engine and its peers on a CPU: {', '.join(shapes)}", "", "| | |", "|---|---|",
                 f"| date | {time.strftime('%Y-%m-%d')} |", f"| machine | {processor()}, {os.cpu_count()} cores |",
                 f"| instructions | {isa} |", f"| commit | {commit()} |", f"| command | `{command()}` |", "",
                 "\n\n".join(textwrap.fill(paragraph, 120) for paragraph in intro), "",
                 "| measure | measured | ratio | goal | |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(r) + " |" for r in self.rows]
        if self.notes:
            lines += ["", *(f"- {n}" for n in self.notes)]
        return "\n".join(lines) + "\n"

    def write(self, folder, isa, shapes, intro):
        """Writes a file into the folder, named after the date, the processor, the instructions and the shapes, and returns its path."""
        name = re.sub("[^a-z0-9]+", "-", processor().lower()).strip("-")
        path = fresh(f"{os.path.normpath(folder)}/{time.strftime('%Y-%m-%d')}-{name}-{isa}-cpu-{'-'.join(shapes)}.md")
        with open(path, "w") as f:
            f.write(self.markdown(isa, shapes, intro))
        return path
