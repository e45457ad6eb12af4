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
NAMED = {"question", "aspect", "target", "pronoun", "answer"}  # fields that are never without a name beside others
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


def wording(r, choices):
    """{choice: what is said instead}: other words, or another case."""
    said = list(choices)
    lists = SYNONYM.get(frozenset(choices))
    if lists and r.random() < 0.6:
        other = dict(zip(lists[0], r.choice(lists)))
        said = [other[c] for c in choices]
    style = r.random()
    if style < 0.15:
        said = [c[:1].upper() + c[1:] for c in said]
    elif style < 0.2 and all(c.replace(" ", "").isalpha() for c in said):
        said = [c.replace(" ", "_") for c in said]
    return dict(zip(choices, said))


LISTS = {  # how choices are listed in a prompt
    "labels": lambda c: "Possible labels: " + ", ".join(c),
    "options": lambda c: "Options: " + ", ".join(c),
    "choices": lambda c: "Choices: " + ", ".join(c) + ".",
    "dashes": lambda c: "Options:\n" + "\n".join(f"- {x}" for x in c),
    "numbers": lambda c: "Possible labels:\n" + "\n".join(f"{i + 1}. {x}" for i, x in enumerate(c)),
    "question": lambda c: ", ".join(c[:-1]) + f" or {c[-1]}?",
}


def list_form(r, choices):
    """The name of a way to list the choices, or nothing."""
    if sum(map(len, choices)) > MOST_LISTED or r.random() < 0.35:
        return None
    few = len(choices) <= 4 and max(map(len, choices)) < 30
    return r.choice(["labels"] * 4 + ["options", "choices", "dashes", "numbers"] + ["question"] * 2 * few)


def names_of(r, fields):
    """What each field is called in the prompt; "" for a text that stands alone."""
    style = r.random()
    if len(fields) == 1 and style < 0.5 or style < 0.35 and not NAMED & set(fields):
        return dict.fromkeys(fields, "")
    if set(fields) == {"text"}:
        return {"text": r.choice(["Text", "Sentence", "Message", "Input", "Comment", "text", "Query", "Tweet", "Document"])}
    return {n: n if r.random() < 0.2 else n.capitalize() for n in fields}


class Form(NamedTuple):
    """How the rows of a set are asked for; all rows of an episode share one."""

    question: str
    names: dict  # of the fields that are not in the question
    places: tuple  # the order of "question", "list" and "texts"
    listed: str | None  # one of LISTS
    ending: str
    separator: str
    joined: bool  # the question and the list that follows it are one line

    def text(self, row, choices):
        """choices: as they are said."""
        parts = {"question": self.question, "list": LISTS[self.listed](choices) if self.listed else "",
                 "texts": [f"{name}: {row.fields[f]}" if name else row.fields[f] for f, name in self.names.items()]}
        if any(f"{{{f}}}" in self.question for f in row.fields):
            parts["question"] = self.question.format(**row.fields)
        out = []
        for place in self.places:
            out += parts[place] if place == "texts" else [parts[place]]
        if self.joined and self.listed and self.places[:2] == ("question", "list"):
            out[:2] = [f"{out[0]} {out[1]}"]
        return self.separator.join(filter(None, [*out, self.ending]))


PLACES = ([("question", "list", "texts")] * 45 + [("texts", "question", "list")] * 30 + [("texts", "list")] * 10
          + [("texts",)] * 8 + [("question", "texts")] * 7)


def form(r, name, kind, fields, choices):
    """A form for a set: fields are the names of its rows' fields, choices what may have to be listed."""
    question = r.choice(QUESTIONS.get(name) or QUESTIONS[kind])
    used = {f for _, f, _, _ in string.Formatter().parse(question) if f}
    places = ("texts", "question", "list") if used else r.choice(PLACES)
    return Form(question, names_of(r, [f for f in fields if f not in used]), places,
                list_form(r, choices) if "list" in places else None,
                r.choice(["", "", "", "Label:", "Label:", "Answer:", "Category:", "The answer is"]),
                r.choice(["\n", "\n", " ", "\n\n"]), r.random() < 0.6)


def render(r, name, kind, row, labels):
    """A prompt for a row of the set; labels: of the whole set."""
    choices, right = candidates(r, labels, row.label, row.choices)
    if not row.choices:
        said = wording(r, choices)
        choices = [said[c] for c in choices]
    return Prompt(form(r, name, kind, list(row.fields), choices).text(row, choices), choices, right)


class Sets:
    """The labelled sets of a folder that mixture.py has written, without those that are for choosing among models."""

    def __init__(self, folder, use="train", part=0, parts=1):
        """part, parts: only a share of each set's rows"""
        with open(f"{folder}/sets.json", encoding="utf-8") as f:
            self.about = {name: s for name, s in json.load(f).items() if s["use"] == use}
        self.rows = {name: list(rows.read(Path(folder) / f"{name}.jsonl", part, parts)) for name in self.about}

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
