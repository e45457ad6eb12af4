"""The table of scripts/bench cpu: printed as it comes, and the section of docs/performance.md."""

import re

HEADING = "## The engine and its peers on a CPU: `scripts/bench cpu`"


class Report:
    def __init__(self):
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

    def note(self, text):
        self.notes.append(text)
        print(f"  {text}", flush=True)

    def markdown(self, intro):
        """intro: paragraphs."""
        lines = [HEADING, "", "\n\n".join(intro), "", "| measure | measured | ratio | goal | |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(r) + " |" for r in self.rows]
        if self.notes:
            lines += ["", *(f"- {n}" for n in self.notes)]
        return "\n".join(lines) + "\n"

    def write(self, path, intro):
        """Replaces the section in the file, or puts it before the second one."""
        with open(path) as f:
            text = f.read()
        sections = re.split(r"(?m)^(?=## )", text)
        mine = self.markdown(intro) + "\n"
        at = next((i for i, s in enumerate(sections) if s.startswith(HEADING + "\n")), None)
        if at is None:
            sections.insert(1, mine)
        else:
            sections[at] = mine
        with open(path, "w") as f:
            f.write("".join(sections).rstrip("\n") + "\n")
