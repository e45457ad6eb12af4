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
from teacher import Teacher, pooled
from texts import Texts

HELD_OUT = 256
POOLED = 2.0  # weight of the pooled loss


class Distiller(nn.Module):
    def __init__(self, folder, teacher, teacher_ids, first, last):
        """first, last: the teacher's numbers of [CLS] and [SEP]."""
        super().__init__()
        self.student = t5.load(folder)
        self.student.decoder = None
        self.t, self.first = teacher, first
        self.register_buffer("numbers", teacher_ids, persistent=False)
        assert int(teacher_ids[1]) == last
        self.heads = nn.ModuleList(nn.Linear(teacher.d, teacher.d) for _ in range(teacher.layers))
        with torch.no_grad():
            for head, (weight, bias) in zip(self.heads, torch.load(f"{folder}/heads.pt")):
                head.weight.copy_(weight)
                head.bias.copy_(bias)

    def target(self, ids, keep):
        """The teacher's states, without [CLS], and its pooled output, which includes it."""
        first = torch.full_like(ids[:, :1], self.first)
        keep = torch.cat([torch.ones_like(keep[:, :1]), keep], 1)
        states = self.t.states(torch.cat([first, self.numbers[ids]], 1), keep)
        return [s[:, 1:] for s in states], pooled(states[-1], keep)

    def outputs(self, ids, keep):
        states = []
        self.student.encode(ids, keep, states)
        norm = self.student.encoder.final_layer_norm
        return [head(norm(s)) for head, s in zip(self.heads, states)]

    def losses(self, ids, keep):
        """(sum over layers of the mean squared error, 1 - cosine of pooled states)"""
        targets, vector = self.target(ids, keep)
        outputs = self.outputs(ids, keep)
        states = sum(F.mse_loss(o[keep], t[keep]) for o, t in zip(outputs, targets))
        return states, (1 - (pooled(outputs[-1], keep) * vector).sum(-1)).mean()

    @torch.no_grad()
    def cosine(self, batches):
        """Mean cosine to the teacher's sentence vectors, and to its states token by token."""
        rows, tokens = [], []
        for ids, keep in batches:
            targets, vector = self.target(ids, keep)
            output = self.outputs(ids, keep)[-1]
            rows.append((pooled(output, keep) * vector).sum(-1))
            tokens.append(F.cosine_similarity(output, targets[-1], dim=-1)[keep])
        return float(torch.cat(rows).mean()), float(torch.cat(tokens).mean())

    def save(self, folder, whole):
        whole.encoder.load_state_dict(self.student.encoder.state_dict())
        whole.shared.load_state_dict(self.student.shared.state_dict())
        t5.save(whole, folder)
        torch.save([(h.weight.detach().clone(), h.bias.detach().clone()) for h in self.heads], f"{folder}/heads.pt")


def optimizer_of(d, rate):
    """Muon for the student's matrices, AdamW for its embedding, norms and relative positions, and for the heads."""
    matrices, fast, slow = [], [], []
    for name, p in d.named_parameters():
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
    teacher = Teacher(o.teacher)
    numbers = torch.from_numpy(np.load(f"{o.tokenizer}/teacher-ids.npy").astype(np.int64))
    with open(f"{o.teacher}/vocab.txt", encoding="utf-8") as f:
        words = f.read().split("\n")
    d = Distiller(o.model, teacher, numbers, words.index("[CLS]"), words.index("[SEP]"))
    whole, out = t5.load(o.model), o.out or o.model
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
            d.save(out, whole)
    d.save(out, whole)
    print("after: cosine %.4f of texts, %.4f of tokens" % d.cosine(held_out), flush=True)


if __name__ == "__main__":
    sys.exit(main())
