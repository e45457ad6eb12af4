"""Turns rows of the labelled sets into prompts, and writes them without their labels.

    prompts.py SETS OUT.jsonl [ROWS]     the inputs of all sets for training, at most ROWS of a set (4,000), a JSON string a line

A prompt is made by chance: which question is asked (questions.py), whether it stands before the row's texts or after them, whether
texts have names, whether the possible labels are listed and how, which other labels the right one is to be told from, and in which
words the labels are said. So a model sees neither a fixed form nor a fixed set of answers.
"""

import json
import random
import string
import sys
from pathlib import Path
from typing import NamedTuple

import rows
from questions import QUESTIONS, SYNONYMS

MOST_CHOICES = 150
MOST_LISTED = 1200  # characters of a list of labels in a prompt
SYNONYM = {frozenset(lists[0]): lists for lists in SYNONYMS}


class Prompt(NamedTuple):
    text: str
    choices: list
    right: int


def candidates(r, labels, label, own):
    """(candidates in an order that tells nothing, index of the right one). labels: those of the set, or None."""
    if own:
        names = dict.fromkeys(own)
    elif len(labels) <= 4 or r.random() < 0.4:
        names = dict.fromkeys(labels)
    else:  # some of the labels: few as often as many
        n = int(2 * (len(labels) / 2) ** r.random())
        names = dict.fromkeys(r.sample(labels, n) + [label])
    others = [x for x in names if x != label]
    others = r.sample(others, min(len(others), MOST_CHOICES - 1))
    chosen = others + [label]
    r.shuffle(chosen)
    return chosen, chosen.index(label)


def worded(r, choices):
    """The same choices in other words, or in another case."""
    lists = SYNONYM.get(frozenset(choices))
    if lists and r.random() < 0.6:
        other = dict(zip(lists[0], r.choice(lists)))
        choices = [other[c] for c in choices]
    style = r.random()
    if style < 0.15:
        choices = [c[:1].upper() + c[1:] for c in choices]
    elif style < 0.2 and all(c.replace(" ", "").isalpha() for c in choices):
        choices = [c.replace(" ", "_") for c in choices]
    return choices


def listed(r, choices):
    """A text that lists the choices, or nothing."""
    if sum(map(len, choices)) > MOST_LISTED or r.random() < 0.35:
        return ""
    comma = ", ".join(choices)
    forms = [f"Possible labels: {comma}"] * 4 + [
        f"Options: {comma}", f"Choices: {comma}.", "Options:\n" + "\n".join(f"- {c}" for c in choices),
        "Possible labels:\n" + "\n".join(f"{i + 1}. {c}" for i, c in enumerate(choices))]
    if len(choices) <= 4 and max(map(len, choices)) < 30:
        forms += [", ".join(choices[:-1]) + f" or {choices[-1]}?"] * 2
    return r.choice(forms)


def named(r, fields):
    """The row's texts, one after the other, with or without their names."""
    style = r.random()
    if len(fields) == 1 and style < 0.5:
        return list(fields.values())
    if style < 0.35 and not {"question", "aspect", "target", "pronoun", "answer"} & set(fields):
        return list(fields.values())
    names = list(fields)
    if len(names) == 1 and names[0] == "text":
        names = [r.choice(["Text", "Sentence", "Message", "Input", "Comment", "text", "Query", "Tweet", "Document"])]
    else:
        names = [n if r.random() < 0.2 else n.capitalize() for n in names]
    return [f"{n}: {v}" for n, v in zip(names, fields.values())]


def ending(r):
    return r.choice(["", "", "", "Label:", "Label:", "Answer:", "Category:", "The answer is"])


def render(r, name, kind, row, labels):
    """A prompt for a row of the set; labels: of the whole set."""
    label = row.label
    choices, right = candidates(r, labels, label, row.choices)
    if not row.choices:
        choices = worded(r, choices)
    question = r.choice(QUESTIONS.get(name) or QUESTIONS[kind])
    used = {f for _, f, _, _ in string.Formatter().parse(question) if f}
    if used:
        question = question.format(**row.fields)
    fields = {k: v for k, v in row.fields.items() if k not in used}
    texts, choice_list, style = named(r, fields), listed(r, choices), r.random()
    if used:
        parts = [*texts, question, choice_list]
    elif style < 0.45:
        parts = [question, choice_list, *texts]
    elif style < 0.75:
        parts = [*texts, question, choice_list]
    elif style < 0.85:
        parts = [*texts, choice_list]
    else:
        parts = texts if r.random() < 0.5 else [question, *texts]
    parts = [p for p in [*parts, ending(r)] if p]
    if parts[0] == question and len(parts) > 1 and parts[1] == choice_list and r.random() < 0.6:
        parts[:2] = [f"{question} {choice_list}"]
    return Prompt(r.choice(["\n", "\n", " ", "\n\n"]).join(parts), choices, right)


class Sets:
    """The labelled sets of a folder that mixture.py has written, without those that are for choosing among models."""

    def __init__(self, folder, use="train"):
        with open(f"{folder}/sets.json", encoding="utf-8") as f:
            self.about = {name: s for name, s in json.load(f).items() if s["use"] == use}
        self.rows = {name: list(rows.read(Path(folder) / f"{name}.jsonl")) for name in self.about}

    def prompt(self, r, name, row):
        s = self.about[name]
        return render(r, name, s["kind"], row, s["labels"])


def main():
    folder, out, *most = sys.argv[1:]
    most = int(most[0]) if most else 4000
    sets, r = Sets(folder), random.Random(0)
    with open(out, "w", encoding="utf-8") as f:
        n = 0
        for name, all_rows in sets.rows.items():
            for row in r.sample(all_rows, min(most, len(all_rows))):
                f.write(json.dumps(sets.prompt(r, name, row).text, ensure_ascii=False) + "\n")
                n += 1
    print(f"{n} prompts")


if __name__ == "__main__":
    main()
