"""Trains the student to be steered: after some steps of (IA)³ on a few rows it is to be right on other rows.

    steer.py --sets DIR --tokenizer DIR --model DIR --minutes N [--out DIR]

First-order meta-learning (Finn et al., arXiv 1703.03400, section 5.2): an episode takes one set, some of its labels, one form of prompt
and 16 to 64 rows; (IA)³'s vectors, which begin as ones, take a few steps on these rows; then the loss on other rows of the same set, with
these vectors, gives the gradient of the student's weights as if the vectors were constants.
"""

import random
import sys

import numpy as np
import sentencepiece
import torch

import prompts
import ranking
import t5
from run import Run, options
from train import Judge, optimizer_of

MOST_LABELS = 16
SHOTS = (16, 64)
QUERIES = 24
LEAST_ROWS = (SHOTS[0] + QUERIES) // 2  # of a label, so that two labels are enough for an episode
BATCH = 8


class Vectors:
    """(IA)³'s vectors of a model: while it is in use, `with`, they scale keys, values and the inner activations."""

    def __init__(self, model):
        self.places = []
        for module in model.modules():
            if isinstance(module, t5.Attention):
                self.places += [(module, "scale_k", module.k.out_features), (module, "scale_v", module.v.out_features)]
            elif isinstance(module, t5.FeedForward):
                self.places.append((module, "scale", module.wi.out_features))
        self.values = [torch.ones(n, requires_grad=True) for _, _, n in self.places]

    def __enter__(self):
        for (module, name, _), value in zip(self.places, self.values):
            setattr(module, name, value)
        return self

    def __exit__(self, *_):
        for module, name, _ in self.places:
            setattr(module, name, None)


def total(loss):
    return loss.ln + loss.lm + loss.ul


def adapt(model, batches, rate):
    """Vectors after a step for each batch: Adam's, so that each element moves by about `rate` a step, as with T-Few's Adafactor."""
    vectors = Vectors(model)
    optimizer = torch.optim.Adam(vectors.values, lr=rate, betas=(0.0, 0.9))
    with vectors:
        for b in batches:
            gradients = torch.autograd.grad(total(ranking.losses(model, b)), vectors.values)
            for v, g in zip(vectors.values, gradients):
                v.grad = g
            optimizer.step()
    return vectors


class Episodes:
    def __init__(self, sets, processor, longest):
        self.sets, self.processor, self.longest = sets, processor, longest
        self.by_label = {}
        for name, rows in sets.rows.items():
            groups = {}
            for row in rows:
                if row.choices is None:
                    groups.setdefault(row.label, []).append(row)
            groups = {label: g for label, g in groups.items() if len(g) >= LEAST_ROWS}
            if len(groups) > 1:
                self.by_label[name] = groups
        self.names = list(self.by_label)

    def rows(self, r):
        """(the set's name, labels, rows to adapt with, rows to learn from)"""
        while True:
            name = r.choice(self.names)
            groups = self.by_label[name]
            labels = r.sample(sorted(groups), min(len(groups), r.randint(2, MOST_LABELS)))
            pool = [row for label in labels for row in groups[label]]
            if r.random() < 0.7:  # mostly balanced
                most = 2 * min(len(groups[label]) for label in labels)
                pool = [row for label in labels for row in r.sample(groups[label], min(most, len(groups[label])))]
            if len(pool) >= SHOTS[0] + QUERIES:
                chosen = r.sample(pool, min(r.randint(*SHOTS) + QUERIES, len(pool)))
                return name, labels, chosen[QUERIES:], chosen[:QUERIES]

    def items(self, r, name, labels, rows, form, said):
        choices = [said[label] for label in labels]
        given = [prompts.Prompt(form.text(row, choices), choices, labels.index(row.label)) for row in rows]
        return ranking.items_of(self.processor, given, self.longest)

    def draw(self, r, steps):
        """(batches to adapt with, `steps` of them; batches to learn from)"""
        name, labels, shots, queries = self.rows(r)
        said = prompts.wording(r, labels)
        form = prompts.form(r, name, self.sets.about[name]["kind"], list(shots[0].fields), [said[label] for label in labels])
        shots, queries = (self.items(r, name, labels, rows, form, said) for rows in (shots, queries))
        inner = [ranking.collate(r.sample(shots, min(BATCH, len(shots)))) for _ in range(steps)]
        return inner, list(map(ranking.collate, ranking.batches(queries, 2048)))


def arguments():
    p = options(__doc__, "sets")
    p.add_argument("--rate", type=float, default=2e-4, help="of the decoder (2e-4)")
    p.add_argument("--encoder-rate", type=float, default=5e-5)
    p.add_argument("--inner-rate", type=float, default=0.03, help="of (IA)³'s vectors (0.03)")
    p.add_argument("--inner-steps", type=int, default=8)
    p.add_argument("--longest", type=int, default=192)
    return p.parse_args()


def main():
    o = arguments()
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{o.tokenizer}/spiece.model")
    model, out, r = t5.load(o.model), o.out or o.model, random.Random(o.seed)
    judge = Judge(o.sets, processor, o.longest)
    episodes = Episodes(prompts.Sets(o.sets), processor, o.longest)
    optimizer = optimizer_of(model, o.rate, o.encoder_rate, o.encoder_rate)
    print("zero-shot: %.3f" % np.mean(list(judge.accuracy(model).values())), flush=True)
    run, recent = Run(o.minutes, optimizer, 50), []
    while run.next():
        inner, outer = episodes.draw(r, o.inner_steps)
        vectors = adapt(model, inner, o.inner_rate)
        optimizer.zero_grad()
        count = sum(len(b.ids) for b in outer)
        for b in outer:
            with torch.no_grad():
                before = ranking.losses(model, b)
            with vectors:
                after = ranking.losses(model, b)
                (total(after) * (len(b.ids) / count)).backward()
            recent.append([float(x.detach()) for x in (before.ln, before.accuracy, after.ln, after.accuracy)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if run.step % 50 == 0:
            print("%5.1f min, episode %d: ln %.3f, accuracy %.3f before; %.3f, %.3f after" % (run.minutes(), run.step, *np.mean(recent, 0)),
                  flush=True)
            recent = []
        if run.due("checkpoint", 15):
            t5.save(model, out)
    t5.save(model, out)
    print("zero-shot: %.3f" % np.mean(list(judge.accuracy(model).values())), flush=True)


if __name__ == "__main__":
    sys.exit(main())
