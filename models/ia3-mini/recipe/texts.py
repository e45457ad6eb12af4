"""Tokenized text in files, and batches of it.

    texts.py TOKENIZER OUT TEXT...    tokenizes files of text into OUT.npy: all tokens, each text with its </s>

A file of text has a paragraph a line, or, if its name ends in .jsonl, a JSON string a line.
"""

import json
import sys

import numpy as np
import sentencepiece
import torch

END = 1


def lines_of(path):
    with open(path, encoding="utf-8") as f:
        for line in f:
            yield json.loads(line) if path.endswith(".jsonl") else line.rstrip("\n")


def pack(processor, lines, longest):
    """One array of numbers of 16 bits; texts that are longer are cut."""
    out = []
    for at in range(0, len(lines), 10000):
        for ids in processor.encode(lines[at:at + 10000], num_threads=2):
            if ids:
                out.append(np.array(ids[:longest - 1] + [END], "<u2"))
    return np.concatenate(out)


def batch(rows, longest=0):
    """Padded ids and which are tokens: [rows, tokens] each, with as many tokens as the longest row has, or more."""
    longest = max(longest, max(map(len, rows)))
    ids = np.zeros((len(rows), longest), np.int64)
    keep = np.zeros((len(rows), longest), bool)
    for i, row in enumerate(rows):
        ids[i, :len(row)] = row
        keep[i, :len(row)] = True
    return torch.from_numpy(ids), torch.from_numpy(keep)


class Texts:
    """Texts in an order that a seed decides, in batches of about `tokens` tokens and of similar length."""

    def __init__(self, path, seed, longest=512):
        self.tokens = np.load(path, mmap_mode="r")
        self.ends = np.flatnonzero(np.asarray(self.tokens) == END) + 1
        self.starts = np.concatenate([[0], self.ends[:-1]])
        self.longest = longest
        self.random = np.random.default_rng(seed)
        self.order = self.random.permutation(len(self.ends))

    def __len__(self):
        return len(self.ends)

    def row(self, i):
        row = self.tokens[self.starts[i]:self.ends[i]]
        return row if len(row) <= self.longest else np.append(row[:self.longest - 1], END)

    def batches(self, which, tokens, pool=2048):
        """Goes through the texts `which` (indexes into the order) once: pools are sorted by length, batches of a pool shuffled."""
        for at in range(0, len(which), pool):
            rows = sorted((self.row(self.order[i]) for i in which[at:at + pool]), key=len)
            groups, group = [], []
            for row in rows:
                if group and (len(group) + 1) * len(row) > tokens:
                    groups.append(group)
                    group = []
                group.append(row)
            groups.append(group)
            self.random.shuffle(groups)
            for group in groups:
                yield batch(group)


def main():
    tokenizer, out, *texts = sys.argv[1:]
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{tokenizer}/spiece.model")
    lines = []
    for path in texts:
        lines += lines_of(path)
    tokens = pack(processor, lines, 512)
    np.save(f"{out}.npy", tokens)
    print(f"{len(tokens)} tokens, {int((tokens == END).sum())} texts")


if __name__ == "__main__":
    main()
