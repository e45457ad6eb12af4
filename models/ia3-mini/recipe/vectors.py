"""A teacher's sentence vectors of texts.

    vectors.py TEACHER TEXTS OUT.npy     [texts, d] in float16, each of length one
"""

import sys

import numpy as np
import tokenizers
import torch

import teacher
from texts import batch, lines_of

LONGEST, TOKENS = 128, 4096


class Encoder:
    """Texts as the teacher itself cuts them into pieces."""

    def __init__(self, folder):
        self.teacher = teacher.load(folder)
        self.tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(LONGEST)

    def vectors(self, texts):
        rows = [e.ids for e in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        result = np.zeros((len(rows), self.teacher.d), np.float16)
        while order:
            n = 1  # the longest row comes last, so all others of a batch are shorter
            while n < len(order) and (n + 1) * len(rows[order[-1]]) <= TOKENS:
                n += 1
            chosen, order = order[-n:], order[:-n]
            ids, keep = batch([rows[i] for i in chosen])
            result[chosen] = teacher.pooled(self.teacher.states(ids, keep)[-1], keep).numpy()
        return result


def main():
    folder, texts, out = sys.argv[1:]
    torch.set_grad_enabled(False)
    vectors = Encoder(folder).vectors(lines_of(texts))
    np.save(out, vectors)
    print(f"{len(vectors)} texts")


if __name__ == "__main__":
    main()
