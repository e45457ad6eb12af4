"""What gpu-check prints: a line for each check, and the table of measures against their goals."""

import json
import os

PRINTED = 26  # rows of a table; the JSON file has all


class Measure:
    """A row of the table. `ours` and `peer` are in `unit`; a goal is (text, function of the measure that says whether it
    is reached, or None when it cannot be said)."""

    def __init__(self, name, unit, less=False, goals=()):
        self.name, self.unit, self.less, self.goals = name, unit, less, list(goals)
        self.ours = self.peer = None
        self.note = ""

    def ratio(self):
        """How many times better than the peer."""
        if not self.ours or not self.peer:
            return None
        return self.peer / self.ours if self.less else self.ours / self.peer

    def verdict(self):
        if self.ours is None:
            return "not measured"
        if not self.goals:
            return ""
        reached = [check(self) for _, check in self.goals]
        if False in reached:
            return "short"
        return "part measured" if None in reached else "ok"


def at_least(value):
    return f">= {value:,g}", lambda m: m.ours >= value


def at_most(value, unit=""):
    return f"<= {value:,g}{unit}", lambda m: m.ours <= value


def times_peer(value):
    return f">= {value:g}x", lambda m: None if m.ratio() is None else m.ratio() >= value


def number(value):
    """To about four significant digits."""
    if value is None:
        return "-"
    for whole, decimals in ((1000, 0), (100, 1), (10, 2)):
        if abs(value) >= whole:
            return f"{value:,.{decimals}f}"
    return f"{value:.3f}"


def columns(rows):
    """Rows of strings as aligned text; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    aligned = [[cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))] for row in rows]
    return ["  ".join(row).rstrip() for row in aligned]


def compare(old, new):
    """Lines with the measures of two reports (JSON files): old, new, and how many times better the new one is."""
    rows = [("measure", "old", "new", "better", "torch, old", "torch, new")]
    reports = []
    for path in (old, new):
        with open(path) as f:
            reports.append({m["name"]: m for m in json.load(f)["measures"]})
    for name in dict.fromkeys([*reports[0], *reports[1]]):
        a, b = (r.get(name) or {"ours": None, "peer": None} for r in reports)
        known = reports[1].get(name) or reports[0][name]
        better = None
        if a["ours"] and b["ours"]:
            better = a["ours"] / b["ours"] if known.get("less") else b["ours"] / a["ours"]
        rows.append((f"{name}, {known['unit']}" if known["unit"] else name, number(a["ours"]), number(b["ours"]),
                     f"{better:.3f}" if better else "-", number(a["peer"]), number(b["peer"])))
    return columns(rows)


class Report:
    def __init__(self, say=print):
        self.say = say
        self.facts = []
        self.checks = []  # (step, name, status, detail, seconds, count); status: ok, failed, skipped
        self.seconds = {}  # of each step
        self.measures = []
        self.tables = []  # (title, lines)

    def table(self, title, lines):
        self.tables.append((title, lines))
        self.say(f"  {title}")
        for line in lines[:6]:
            self.say(f"  {line}")

    def fact(self, text):
        self.facts.append(text)
        self.say(f"  {text}")

    def check(self, step, name, status, detail="", seconds=None, count=1):
        """Adds a line that counts as `count` checks with that status."""
        self.checks.append((step, name, status, detail, seconds, count))
        took = "" if seconds is None else f" ({seconds:.1f} s)"
        self.say(f"  {status:7} {name}{took}{': ' if detail else ''}{detail}")

    def took(self, step, seconds):
        self.seconds[step] = seconds

    def total(self, status):
        return sum(c[5] for c in self.checks if c[2] == status)

    def _steps(self):
        rows = [("step", "passed", "failed", "skipped", "seconds")]
        for step in dict.fromkeys(c[0] for c in self.checks):
            of_step = [c for c in self.checks if c[0] == step]
            counts = [sum(c[5] for c in of_step if c[2] == s) for s in ("ok", "failed", "skipped")]
            rows.append((step, *(str(n) for n in counts), f"{self.seconds.get(step, 0):.1f}"))
        return columns(rows)

    def _table(self):
        rows = [("measure", "ia3", "torch", "ratio", "goal", "")]
        for m in self.measures:
            ratio = m.ratio()
            rows.append((f"{m.name}, {m.unit}" if m.unit else m.name, number(m.ours), number(m.peer),
                         f"{ratio:.2f}" if ratio else "-", ", ".join(text for text, _ in m.goals), m.verdict()))
        return columns(rows) + [f"  {m.name}: {m.note}" for m in self.measures if m.note]

    def text(self):
        lines = list(self.facts) + [""]
        lines += self._steps() + [""] if self.checks else []
        for step, name, status, detail, _, _ in self.checks:
            if status != "ok":
                lines.append(f"{status}: {step}: {name}{': ' if detail else ''}{detail}")
        if any(m.ours is not None or m.peer is not None for m in self.measures):
            lines += [""] + self._table()
            verdicts = [m.verdict() for m in self.measures if m.goals]
            if verdicts:
                rest = len(verdicts) - verdicts.count("ok") - verdicts.count("short")
                lines += ["", f"goals (for an H200): {verdicts.count('ok')} ok, {verdicts.count('short')} short, "
                              f"{rest} not measured"]
        for title, rows in self.tables:
            lines += ["", title, *rows[:PRINTED]]
            lines += [f"... and {len(rows) - PRINTED} more"] if len(rows) > PRINTED else []
        lines.append(f"{self.total('ok')} passed, {self.total('failed')} failed")
        return "\n".join(lines) + "\n"

    def write(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".txt", "w") as f:
            f.write(self.text())
        with open(path + ".json", "w") as f:
            json.dump({"facts": self.facts, "seconds": self.seconds, "tables": dict(self.tables),
                       "checks": [dict(zip(("step", "name", "status", "detail", "seconds", "count"), c))
                                  for c in self.checks],
                       "measures": [{"name": m.name, "unit": m.unit, "less": m.less, "ours": m.ours, "peer": m.peer,
                                     "goals": [text for text, _ in m.goals], "verdict": m.verdict(), "note": m.note}
                                    for m in self.measures]}, f, indent=1)
            f.write("\n")
