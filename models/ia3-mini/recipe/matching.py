"""Texts and phrases without labels: a teacher's sentence vectors say how well each phrase fits a text.

    matching.py SETS WIKI.TXT OUT TOKENIZER [TEXTS]    writes OUT/texts.jsonl (TEXTS of them, 100,000) and OUT/phrases.jsonl
    matching.py --temperature SETS TEACHER   the temperature with which the teacher's cosines predict the labels of SETS best

vectors.py then makes OUT/texts.npy and OUT/phrases.npy of them. A student learns from them in train.py (--matching OUT): its scores of
some phrases are to have the softmax of the teacher's cosines, divided by a temperature. Phrases are labels of all sets for training,
short candidates of their rows, the words of the vocabulary, and some words in a row from the texts: answers may have any word.
"""

import json
import os
import random
import re
import sys

import numpy as np
import sentencepiece

import prompts
from texts import lines_of

SHORT, LONG = 40, 300  # characters of a phrase, of a text
LEAST_LETTERS = 3  # with "▁"
WORD_GROUPS = 25_000
TEMPERATURE = 0.06  # of the teacher's cosines
QUESTIONS = ["What is this about?", "Which of these fits best?", "Classify the text.", "Label:", "Choose the label that fits.", "", "", ""]


def phrases_of(sets, r, most=20_000):
    labels = {label for s in sets.about.values() for label in s["labels"]}
    others = {c for rows in sets.rows.values() for row in rows for c in row.choices or [] if len(c) <= SHORT and any(map(str.isalpha, c))}
    others = sorted(others - labels)
    return sorted(labels) + r.sample(others, min(len(others), most))


def words_of(processor):
    """The pieces that are whole words: "▁" and letters."""
    pieces = map(processor.id_to_piece, range(processor.get_piece_size()))
    return [p[1:] for p in pieces if p.startswith("▁") and p[1:].isalpha() and len(p) > LEAST_LETTERS]


def word_groups(texts, r, most):
    """From two to five words in a row each, in lower case."""
    groups = set()
    for text in r.choices(texts, k=most):
        words = re.findall(r"[A-Za-z][A-Za-z'-]*", text)
        n = r.choice([2, 2, 3, 3, 4, 5])
        if len(words) >= n:
            at = r.randrange(len(words) - n + 1)
            groups.add(" ".join(words[at:at + n]).lower())
    return sorted(groups)


def texts_of(sets, wiki, r, most):
    """Half of the sets, each equally often as far as it goes, half of Wikipedia."""
    texts, each = set(), most // 2 // len(sets.rows) + 1
    for rows in sets.rows.values():
        for row in r.sample(rows, min(each, len(rows))):
            texts.add("\n".join(row.fields.values())[:LONG])
    paragraphs = [p.rstrip("\n")[:LONG] for p in wiki]
    return sorted(texts) + r.sample(paragraphs, min(most - len(texts), len(paragraphs)))


def write(path, lines):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in lines)
    print(f"{len(lines)} in {path}")


def nearest(cosines, n=50):
    """Of each row of cosines, [texts, phrases], the phrases with the n highest: [texts, n]."""
    return np.argpartition(-cosines, min(n, cosines.shape[1]) - 1)[:, :n]


class Matching:
    def __init__(self, folder, temperature=TEMPERATURE):
        self.texts, self.phrases = (list(lines_of(f"{folder}/{name}.jsonl")) for name in ("texts", "phrases"))
        self.text_vectors, self.phrase_vectors = (np.load(f"{folder}/{name}.npy").astype(np.float32) for name in ("texts", "phrases"))
        self.nearest = np.load(f"{folder}/nearest.npy") if os.path.exists(f"{folder}/nearest.npy") else None
        self.temperature = temperature

    def cosines(self, texts):
        """[texts, phrases]"""
        return self.text_vectors[texts] @ self.phrase_vectors.T

    def prompt(self, r):
        """(prompt, the share that each of its choices is to have)"""
        i = r.randrange(len(self.texts))
        return self.prompt_of(r, i)

    def prompt_of(self, r, i):
        chosen = self.some(r, self.nearest[i] if self.nearest is not None else nearest(self.cosines([i]))[0])
        choices = [self.phrases[c] for c in chosen]
        logits = self.phrase_vectors[chosen] @ self.text_vectors[i] / self.temperature
        shares = np.exp(logits - logits.max())
        return prompts.Prompt(self.ask(r, i, choices), choices, int(shares.argmax())), shares / shares.sum()

    def asked(self, r, texts, cosines):
        """A prompt for each text, whose list of choices, if any, has some phrases."""
        return [self.ask(r, i, [self.phrases[c] for c in self.some(r, row)]) for i, row in zip(texts, nearest(cosines))]

    def some(self, r, near):
        """From 2 to 32 phrases, few as often as many: some of the nearest ones, the others by chance."""
        n = int(2 * 16 ** r.random())
        chosen = set(map(int, r.sample(list(near), min(n, 1 + r.randrange(8)))))
        while len(chosen) < n:
            chosen.add(r.randrange(len(self.phrases)))
        return r.sample(sorted(chosen), len(chosen))

    def ask(self, r, i, choices):
        """A text with a question, which may be none, before it or after it, and often with a list of the choices."""
        question, text = r.choice(QUESTIONS), self.texts[i]
        form = prompts.list_form(r, choices)
        listed = prompts.LISTS[form](choices) if form else ""
        parts = [question, listed, text] if r.random() < 0.5 and question != "Label:" else [text, listed, question]
        return r.choice(["\n", "\n", " "]).join(filter(None, parts))


def temperature_of(sets, encoder, r, rows=40):
    """The one of least cross-entropy of the labels of sets with at least five."""
    found = []
    for name, s in sets.about.items():
        if len(s["labels"]) < 5:
            continue
        chosen = r.sample(sets.rows[name], min(rows, len(sets.rows[name])))
        x = encoder.vectors("\n".join(row.fields.values()) for row in chosen).astype(float)
        cosines = x @ encoder.vectors(s["labels"]).astype(float).T
        found += [(c, s["labels"].index(row.label)) for c, row in zip(cosines, chosen)]
    for t in (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15):
        loss = np.mean([np.log(np.exp((c - c[i]) / t).sum()) for c, i in found])
        print(f"temperature {t}: cross-entropy {loss:.3f}")
    print(f"accuracy {np.mean([c.argmax() == i for c, i in found]):.3f} of {len(found)} rows")


def main():
    r = random.Random(0)
    if sys.argv[1] == "--temperature":
        import vectors

        return temperature_of(prompts.Sets(sys.argv[2]), vectors.Encoder(sys.argv[3]), r)
    folder, wiki, out, tokenizer, *most = sys.argv[1:]
    sets = prompts.Sets(folder)
    with open(wiki, encoding="utf-8") as f:
        texts = texts_of(sets, f, r, int(most[0]) if most else 100_000)
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{tokenizer}/spiece.model")
    write(f"{out}/texts.jsonl", texts)
    write(f"{out}/phrases.jsonl", list(dict.fromkeys(phrases_of(sets, r) + words_of(processor) + word_groups(texts, r, WORD_GROUPS))))


if __name__ == "__main__":
    sys.exit(main())
