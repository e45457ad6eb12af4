"""Teaches the student's encoder to give the teacher's states.

    distill.py --teacher DIR --tokenizer DIR --texts FILE.npy --model DIR --minutes N [--rate R] [--tokens N] [--out DIR]

The loss is the mean squared error between the teacher's state of each token at each layer and a linear map (a head) of the student's,
plus 1 - cosine of the pooled states of the last layer. The first 256 texts of the order are held out. Every ten minutes, and at the
end, the checkpoint and its heads are written to --out (--model). The rate falls to zero over the minutes.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import t5
from muon import Both
from run import Run, options
from teacher import Aligned, pooled
from texts import Texts

HELD_OUT = 256
POOLED = 2.0  # weight of the pooled loss


class Distiller(nn.Module):
    def __init__(self, student, teacher, heads=None):
        """teacher: an Aligned; heads: a file that save() has written."""
        super().__init__()
        self.student, self.aligned = student, teacher
        d, layers = teacher.teacher.d, teacher.teacher.layers
        self.heads = nn.ModuleList(nn.Linear(d, d) for _ in range(layers))
        with torch.no_grad():
            for head, (weight, bias) in zip(self.heads, torch.load(heads) if heads else []):
                head.weight.copy_(weight)
                head.bias.copy_(bias)

    def outputs(self, ids, keep):
        states = []
        self.student.encode(ids, keep, states)
        norm = self.student.encoder.final_layer_norm
        return [head(norm(s)) for head, s in zip(self.heads, states)]

    def losses(self, ids, keep):
        """(sum over layers of the mean squared error, 1 - cosine of pooled states)"""
        targets, vector = self.aligned.states(ids, keep)
        outputs = self.outputs(ids, keep)
        error = sum((o.float() - t.float()).square().mean(-1) for o, t in zip(outputs, targets))
        return (error * keep).sum() / keep.sum(), (1 - (pooled(outputs[-1], keep) * vector).sum(-1)).mean()

    @torch.no_grad()
    def cosine(self, batches):
        """Mean cosine to the teacher's sentence vectors, and to its states token by token."""
        rows, tokens = [], []
        for ids, keep in batches:
            targets, vector = self.aligned.states(ids, keep)
            output = self.outputs(ids, keep)[-1]
            rows.append((pooled(output, keep) * vector).sum(-1))
            tokens.append(F.cosine_similarity(output.float(), targets[-1].float(), dim=-1)[keep])
        return float(torch.cat(rows).mean()), float(torch.cat(tokens).mean())

    def save(self, folder):
        t5.save(self.student, folder)
        torch.save([(h.weight.detach().clone().cpu(), h.bias.detach().clone().cpu()) for h in self.heads], f"{folder}/heads.pt")


def optimizer_of(d, rate):
    """Muon for the student's matrices, AdamW for its embedding, norms and relative positions, and for the heads."""
    matrices, fast, slow = [], [], []
    for name, p in d.named_parameters():
        if name.startswith("student.decoder"):
            continue
        if "shared" in name or "relative" in name:
            fast.append(p)
        else:
            (matrices if p.dim() == 2 and not name.startswith("heads") else slow).append(p)
    return Both([{"params": matrices, "top": rate}], [{"params": fast, "top": 2 * rate}, {"params": slow, "top": rate}])


def epochs(texts, tokens):
    """Batches without end, of all texts but those that are held out."""
    while True:
        yield from texts.batches(texts.random.permutation(np.arange(HELD_OUT, len(texts))), tokens)


def arguments():
    p = options(__doc__, "teacher", "texts")
    p.add_argument("--rate", type=float, default=5e-4)
    p.add_argument("--tokens", type=int, default=3072, help="tokens of a batch (3072)")
    p.add_argument("--longest", type=int, default=128, help="tokens of a text (128)")
    return p.parse_args()


def main():
    o = arguments()
    d = Distiller(t5.load(o.model), Aligned(o.teacher, o.tokenizer), f"{o.model}/heads.pt")
    out = o.out or o.model
    texts = Texts(o.texts, 1, o.longest)
    held_out = list(texts.batches(range(HELD_OUT), o.tokens))
    texts.random = np.random.default_rng(o.seed + 2)
    print("before: cosine %.4f of texts, %.4f of tokens" % d.cosine(held_out), flush=True)
    optimizer = optimizer_of(d, o.rate)
    run, seen = Run(o.minutes, optimizer, 50), 0
    for ids, keep in epochs(texts, o.tokens):
        if not run.next():
            break
        states, vector = d.losses(ids, keep)
        optimizer.zero_grad()
        (states + POOLED * vector).backward()
        nn.utils.clip_grad_norm_(d.parameters(), 1.0)
        optimizer.step()
        seen += int(keep.sum())
        if run.step == 1 or run.due("line", 5):
            print("%5.1f min, step %d, %.2f M tokens, %.0f a second: states %.4f, pooled %.4f; held out: %.4f, %.4f" % (
                run.minutes(), run.step, seen / 1e6, seen / run.seconds(), states.item(), vector.item(), *d.cosine(held_out)), flush=True)
        if run.due("checkpoint", 10):
            d.save(out)
    d.save(out)
    print("after: cosine %.4f of texts, %.4f of tokens" % d.cosine(held_out), flush=True)


if __name__ == "__main__":
    sys.exit(main())
