#!/usr/bin/env python3
"""Runs the engine on each case of the zoo and compares with what transformers computed. Needs only Python itself.

    check.py ENGINE DIRECTORY [CASE...]

The reference is transformers 5, and 4 where only that can load a case. For each difference beyond 1e-4 and each case that
the engine refuses there is a line; the last line has the totals.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

TOLERANCE = 1e-4


def read_expected(directory):
    for version in "5", "4", "":
        path = directory / (f"expected-{version}.tsv" if version else "expected.tsv")
        lines = path.read_text().splitlines() if path.exists() else ["cannot"]
        if not lines[0].startswith("cannot"):
            return lines[0], [line.split("\t") for line in lines[1:]]
    return None


def run(engine, *arguments, text=""):
    return subprocess.run([engine, *map(str, arguments)], input=text, capture_output=True, text=True)


def check_refused(engine, path, pattern):
    result = run(engine, "check", path)
    if result.returncode != 1 or not re.search(pattern, result.stdout):
        return f"status {result.returncode}, expected an error like \"{pattern}\": {result.stdout[-300:]!r}"
    return None


def check_scores(engine, path, about, expected):
    choices, rows = expected
    result = run(engine, "score", "--backbone", path, "--choices", choices, "--dtype", "float32", "--threads", "1",
                 text="".join(row[0] + "\n" for row in rows))
    if result.returncode != 0:
        return result.stderr.strip()[-300:]
    if "warning" in about and not re.search(about["warning"], result.stderr):
        return f"no warning like \"{about['warning']}\""
    worst = 0
    for line, row in zip(result.stdout.splitlines(), rows):
        for mine, theirs in zip(line.split("\t")[1:], row[1:]):
            worst = max(worst, abs(float(mine) - float(theirs)))
    return f"differs by {worst:.6f}" if not worst <= TOLERANCE else None


def main():
    engine, root = sys.argv[1], Path(sys.argv[2])
    passed = failed = skipped = 0
    for directory in sorted(root.iterdir()):
        if directory.name.startswith(".") or not directory.is_dir() or (sys.argv[3:] and directory.name not in sys.argv[3:]):
            continue
        about = json.loads((directory / "about.json").read_text()) if (directory / "about.json").exists() else {}
        path = directory / about.get("path", ".")
        expected = read_expected(root / about.get("like", directory.name))
        if "error" in about:
            wrong = check_refused(engine, path, about["error"])
        elif expected is None:
            print(f"{directory.name}: skipped, no version of transformers loads it")
            skipped += 1
            continue
        else:
            wrong = check_scores(engine, path, about, expected)
        if wrong:
            print(f"{directory.name}: {wrong}")
        passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)


main()
