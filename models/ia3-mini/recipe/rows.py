"""The form of a row of the mixture, and what every row goes through.

A row is an Example. Its fields are its texts, by the name that a prompt calls them: text; premise and hypothesis; question and
context; and so on. Its label is in words as a person would write them. Which labels could be given instead is said by choices:

    None        the labels of the whole set
    a list      the row's own candidates (multiple choice), in an order that tells nothing; the label is one of them
    []          nothing: the label is a text that is to be written

A loader is a function that gives the rows of one set; its name is the set's name in sources.tsv. `@loader` registers it.
"""

import hashlib
import html
import itertools
import json
import os
import random
import re
from typing import NamedTuple

LONGEST = 4000  # characters of all fields together
LOADERS = {}
SPLITS = {"training": "train", "dev": "validation", "val": "validation", "valid": "validation", "development": "validation",
          "testing": "test"}


# What could not be decoded, control characters, and UTF-8 that was read as Latin-1.
UNREADABLE = re.compile("[\ufffd\x00-\x08\x0e-\x1f\x7f-\x9f]|[\u00c2\u00c3][\xa1-\xbf]|\u00e2\u20ac")


class Example(NamedTuple):
    fields: dict
    label: str
    choices: list | None = None
    split: str = ""  # train, validation, test, or nothing where the source has no parts


def loader(function):
    LOADERS[function.__name__] = function
    return function


def text_row(text, label, split=""):
    return Example({"text": text}, label, None, split)


def pair_row(premise, hypothesis, label, split=""):
    return Example({"premise": premise, "hypothesis": hypothesis}, label, None, split)


def choice_row(fields, candidates, right, split=""):
    """A row of multiple choice; right is the index of the right candidate."""
    return Example(fields, candidates[right], candidates, split)


def tidy(text):
    """A text without HTML's entities, without repeated spaces and those at the ends; line breaks stay."""
    text = html.unescape(text).replace("\u00a0", " ").replace("\ufeff", "").replace("\u200b", "")
    return re.sub(r" ?\n\s*", "\n", re.sub(r"[ \t\r\f\v]+", " ", text)).strip()


def words(name):
    """A name in snake_case, kebab-case or CamelCase as words in lower case."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def order(example):
    """A number that depends on the row's texts only: sorting by it is a shuffle that comes out the same everywhere."""
    return hashlib.md5("\0".join(example.fields.values()).encode()).digest()


def picked(text, things, n):
    """n of the things, by a chance that depends on the text only."""
    return random.Random(text).sample(things, n)


def capped(rows, most, key=lambda row: row.label):
    """At most that many rows of each key (label), chosen by chance but always the same."""
    count, kept = {}, set()
    for i in sorted(range(len(rows)), key=lambda i: order(rows[i])):
        count[key(rows[i])] = count.get(key(rows[i]), 0) + 1
        if count[key(rows[i])] <= most:
            kept.add(i)
    return [row for i, row in enumerate(rows) if i in kept]


def usable(row):
    """Whether a tidy row can be learned from."""
    texts = [*row.fields.values(), row.label, *(row.choices or [])]
    return (all(texts) and not any(map(UNREADABLE.search, texts)) and sum(map(len, row.fields.values())) <= LONGEST
            and any(c.isalpha() for t in row.fields.values() for c in t)
            and (not row.choices or row.label in row.choices and len(set(row.choices)) > 1))


def cleaned(rows):
    """Tidy rows, without those that are unusable and without duplicates (of which the first stays, even if labels differ)."""
    seen, kept = set(), []
    for row in rows:
        fields, choices = {k: tidy(v) for k, v in row.fields.items()}, row.choices and sorted(map(tidy, row.choices))
        key = "\0".join([*fields.values(), *(choices or [])]).casefold()
        row = Example(fields, tidy(row.label), choices and picked(key, choices, len(choices)), SPLITS.get(row.split, row.split))
        if usable(row) and key not in seen:
            seen.add(key)
            kept.append(row)
    return kept


def write(path, rows):
    """A row a line. The file is there when all of it is."""
    partial = path.with_suffix(".part")
    with open(partial, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")
    os.replace(partial, path)


def read(path, part=0, parts=1):
    """All rows, or one of so many parts of them."""
    with open(path, encoding="utf-8") as f:
        for line in itertools.islice(f, part, None, parts):
            yield Example(**json.loads(line))
