"""The tasks of the T-Few paper that its few-shot files have: how a row of a file becomes fields, choices and a label, and how it is asked.

Templates are ia3's: {field} stands for a field, {choices} for the possible answers. They are in the manner of P3's prompts and not copies
of them; --prompts of scripts/paper gives others. The paper's eleven held-out tasks are those in HELD_OUT.
"""

import json
import random
import re
from pathlib import Path
from typing import NamedTuple

YES_NO, NO_YES = ["yes", "no"], ["no", "yes"]
NLI = [
    "{premise}\nQuestion: {hypothesis} {choices}?",
    "Suppose that {premise} Can we infer that \"{hypothesis}\"? {choices}?",
    "{premise} Based on this, is it true that \"{hypothesis}\"? {choices}?",
]


class Row(NamedTuple):
    fields: dict
    choices: list
    right: int  # the index of the right choice


def nli(*answers):
    """answers: in the order of the file's numbers"""
    return lambda d: Row({"premise": d["premise"], "hypothesis": d["hypothesis"]}, list(answers), d["label"])


def copa(d):
    link = {"cause": "because", "effect": "so"}[d["question"]]
    return Row({"premise": d["premise"], "question": d["question"], "link": link}, [d["choice1"], d["choice2"]], d["label"])


def h_swag(d):
    return Row({"text": d["ctx"], "topic": d["activity_label"]}, d["endings"], d["label"])


def storycloze(d):
    story = " ".join(d[f"input_sentence_{i}"] for i in range(1, 5))
    return Row({"story": story}, [d["sentence_quiz1"], d["sentence_quiz2"]], d["answer_right_ending"] - 1)


def winogrande(d):
    return Row({"sentence": d["sentence"]}, [d["option1"], d["option2"]], int(d["answer"]) - 1)


def wsc(d):
    return Row({"text": d["text"], "name": d["span1_text"], "pronoun": d["span2_text"]}, NO_YES, d["label"])


def wic(d):
    return Row({k: d[k] for k in ("word", "sentence1", "sentence2")}, NO_YES, d["label"])


def boolq(d):
    return Row({k: d[k] for k in ("passage", "question")}, NO_YES, d["label"])


def sst2(d):
    return Row({"text": d["sentence"].strip()}, ["negative", "positive"], d["label"])


class Task(NamedTuple):
    row: object  # a function of a line of a file
    templates: list
    identity: tuple  # of a line: two lines with the same values are one row


TASKS = {
    "rte": Task(nli("yes", "no"), NLI, ("premise", "hypothesis")),
    "cb": Task(nli("yes", "no", "maybe"), NLI, ("premise", "hypothesis")),
    "anli-r1": Task(nli("yes", "maybe", "no"), NLI, ("premise", "hypothesis")),
    "anli-r2": Task(nli("yes", "maybe", "no"), NLI, ("premise", "hypothesis")),
    "anli-r3": Task(nli("yes", "maybe", "no"), NLI, ("premise", "hypothesis")),
    "copa": Task(copa, [
        "{premise} This happened... {link}\nHelp me pick the more plausible option: {choices}",
        "What could be the {question} of this? {premise}\n{choices}",
        "{premise} {link}...",
    ], ("premise", "choice1", "choice2")),
    "h-swag": Task(h_swag, ["How does this end? {text}", "Topic: {topic}\n{text}\nEnding:", "Complete the description: {text}"], ("ctx", "endings")),
    "storycloze": Task(storycloze, [
        "{story} What is a possible continuation?",
        "{story} Choose the better ending: {choices}",
        "Read this story and say how it goes on.\n{story}",
    ], ("input_sentence_1", "input_sentence_4", "sentence_quiz1", "sentence_quiz2")),
    "winogrande": Task(winogrande, [
        "{sentence}\nReplace the _ in the sentence above with the correct option: {choices}",
        "In \"{sentence}\", what does the _ stand for? {choices}?",
        "{sentence}\nThe _ refers to",
    ], ("sentence", "option1", "option2")),
    "wsc": Task(wsc, [
        "{text} In the previous sentence, does the pronoun \"{pronoun}\" refer to {name}? {choices}?",
        "Passage: {text}\nQuestion: Does \"{pronoun}\" stand for \"{name}\"?",
        "{text} Is \"{pronoun}\" the same as \"{name}\"? {choices}?",
    ], ("text", "span1_text", "span2_text", "span2_index")),
    "wic": Task(wic, [
        "Does the word \"{word}\" have the same meaning in these two sentences? {choices}?\n{sentence1}\n{sentence2}",
        "{sentence1}\n{sentence2}\nQuestion: Is \"{word}\" used in the same sense in both sentences?",
        "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nSame meaning of {word}? {choices}?",
    ], ("word", "sentence1", "sentence2")),
    "boolq": Task(boolq, ["{passage}\nQuestion: {question}? {choices}?", "Text: {passage}\nAnswer by yes or no: {question}?"], ("passage", "question")),
    "sst2": Task(sst2, ["{text}\nIs this review positive or negative?", "{text} It was"], ("sentence",)),
}
HELD_OUT = ["copa", "h-swag", "storycloze", "winogrande", "wsc", "wic", "rte", "cb", "anli-r1", "anli-r2", "anli-r3"]
SEED = re.compile(r"(\d+)_seed\.jsonl$")


class Data(NamedTuple):
    rows: list  # of Row, each once
    files: dict  # {seed: the numbers of its file's rows}

    def test(self, seed, most, r):
        """The numbers of rows of other seeds' files that are not in this seed's: at most so many, drawn by chance."""
        train = set(self.files[seed])
        others = [i for i in range(len(self.rows)) if i not in train]
        return sorted(r.sample(others, min(most, len(others))))


def read(folder, name):
    """folder: few_shot of T-Few's data; raises FileNotFoundError if it has no files of the task"""
    task, numbers, rows, files = TASKS[name], {}, [], {}
    for path in sorted(Path(folder, name).glob("*_shot/*_seed.jsonl")):
        numbered = []
        for line in path.read_text(encoding="utf-8").splitlines():
            d = json.loads(line)
            key = json.dumps([d.get(k) for k in task.identity])
            if key not in numbers:
                numbers[key] = len(rows)
                rows.append(task.row(d))
            numbered.append(numbers[key])
        files[int(SEED.search(path.name).group(1))] = numbered
    if not files:
        raise FileNotFoundError(f"{folder}/{name} has no *_shot/*_seed.jsonl")
    return Data(rows, files)


def test_rows(data, name, seed, most):
    return data.test(seed, most, random.Random(f"{name} {seed}"))
