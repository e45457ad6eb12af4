"""Trains the whole student to rank answers, on all labelled sets at once.

    train.py --sets DIR --tokenizer DIR --model DIR --minutes N [--frozen MINUTES] [--matching DIR] [--out DIR]

Each step takes prompts of many sets (prompts.py) and T-Few's three losses. A set is drawn in proportion to the square root of its size.
With --matching some steps learn a teacher's ranking of phrases instead (matching.py).
Every fifteen minutes, and at the end, the checkpoint goes to --out (--model), and the zero-shot accuracy on the sets that are for
choosing among models is printed, each prompt in one fixed form. The rate falls to zero over the minutes.
"""

import random
import sys

import numpy as np
import sentencepiece
import torch

import prompts
import ranking
import t5
from matching import Matching
from muon import Both
from questions import QUESTIONS
from run import Run, options

POOL = 2048  # prompts that are sorted into batches
LARGEST = 20_000  # rows; a set that is larger is not drawn more often
JUDGED = 100  # rows of a set that judges models


def stream(sets, processor, r, longest, most):
    """Batches without end."""
    names = list(sets.rows)
    weights = [min(len(sets.rows[n]), LARGEST) ** 0.5 for n in names]
    while True:
        chosen = [sets.prompt(r, n, r.choice(sets.rows[n])) for n in r.choices(names, weights, k=POOL)]
        groups = list(ranking.batches(ranking.items_of(processor, chosen, longest), most))
        r.shuffle(groups)
        yield from map(ranking.collate, groups)


def matched(matching, processor, r, longest, most):
    """Batches without end, of the teacher's rankings."""
    while True:
        chosen, shares = zip(*(matching.prompt(r) for _ in range(POOL)))
        groups = list(ranking.batches(ranking.items_of(processor, chosen, longest, shares), most))
        r.shuffle(groups)
        yield from map(ranking.collate, groups)


def mixed(labelled, unlabelled, r, share):
    while True:
        yield next(unlabelled if unlabelled and r.random() < share else labelled)


def plain(kind, name, row, labels):
    """The fixed form: the first question of the set, and its texts on lines of their own."""
    question = (QUESTIONS.get(name) or QUESTIONS[kind])[0]
    choices = row.choices or labels
    fields = list(row.fields.values()) if len(row.fields) == 1 else [f"{k.capitalize()}: {v}" for k, v in row.fields.items()]
    return prompts.Prompt("\n".join([question, *fields]), choices, choices.index(row.label))


class Judge:
    """Accuracy on rows of the sets for choosing among models."""

    def __init__(self, folder, processor, longest, device="cpu"):
        sets, r = prompts.Sets(folder, "dev"), random.Random(1)
        self.batches = {}
        for name, rows in sets.rows.items():
            s = sets.about[name]
            chosen = [plain(s["kind"], name, row, s["labels"]) for row in r.sample(rows, min(JUDGED, len(rows)))]
            batches = ranking.batches(ranking.items_of(processor, chosen, longest), 4096)
            self.batches[name] = [ranking.collate(b, 16).to(device) for b in batches]

    @torch.no_grad()
    def accuracy(self, model):
        result = {}
        for name, batches in self.batches.items():
            right = [ranking.scores(ranking.log_probabilities(model, b), b).argmax(1) == b.right for b in batches]
            result[name] = float(torch.cat(right).float().mean())
        return result


def optimizer_of(model, rate, encoder_rate, embedding_rate):
    """Muon for the decoder's matrices, most of which begin with nothing; AdamW for what is only adjusted."""
    matrices, groups = [], {"encoder": [], "decoder": [], "shared": []}
    for name, p in model.named_parameters():
        part = name.split(".")[0]
        (matrices if part == "decoder" and p.dim() == 2 and "relative" not in name else groups[part]).append(p)
    rates = {"encoder": encoder_rate, "decoder": rate, "shared": embedding_rate}
    return Both([{"params": matrices, "top": rate}], [{"params": ps, "top": rates[name]} for name, ps in groups.items()],
                weight_decay=0.01)


def freeze(model, frozen):
    """Whether only the decoder learns."""
    for part in (model.encoder, model.shared):
        part.requires_grad_(not frozen)


def arguments():
    p = options(__doc__, "sets")
    p.add_argument("--rate", type=float, default=1e-3, help="of the decoder (1e-3)")
    p.add_argument("--encoder-rate", type=float, default=2e-4)
    p.add_argument("--tokens", type=int, default=4096, help="cost of a batch, in tokens (4096)")
    p.add_argument("--longest", type=int, default=256, help="tokens of an input (256)")
    p.add_argument("--frozen", type=float, default=0, help="minutes in which only the decoder learns, at first (0)")
    p.add_argument("--matching")
    p.add_argument("--share", type=float, default=0.3, help="of the steps with --matching (0.3)")
    p.add_argument("--sample", type=int, default=2048, help="pieces that stand for those that are in no choice; 0: all (2048)")
    p.add_argument("--lm", type=float, default=1.0)
    p.add_argument("--ul", type=float, default=1.0)
    return p.parse_args()


def main():
    o = arguments()
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{o.tokenizer}/spiece.model")
    model, out = t5.load(o.model), o.out or o.model
    judge = Judge(o.sets, processor, o.longest)
    sets = prompts.Sets(o.sets)
    optimizer = optimizer_of(model, o.rate, o.encoder_rate, o.encoder_rate)
    seen, recent, recent_matches = 0, [], []
    r = random.Random(o.seed)
    matches = matched(Matching(o.matching), processor, r, o.longest, o.tokens) if o.matching else None

    def judged():
        a = judge.accuracy(model)
        print("zero-shot: mean %.3f; %s" % (np.mean(list(a.values())), ", ".join(f"{k} {v:.3f}" for k, v in a.items())), flush=True)

    judged()
    freeze(model, o.frozen > 0)
    run = Run(o.minutes, optimizer, 100)
    for b in mixed(stream(sets, processor, r, o.longest, o.tokens), matches, r, o.share):
        if not run.next():
            break
        if not model.shared.weight.requires_grad and run.minutes() >= o.frozen:
            freeze(model, False)
        optimizer.zero_grad()
        if b.shares is None:
            loss = ranking.losses(model, b, o.sample)
            (loss.ln + o.lm * loss.lm + o.ul * loss.ul).backward()
            recent.append([float(x.detach()) for x in loss])
        else:
            match = ranking.matching_loss(model, b, o.sample)
            match.backward()
            recent_matches.append(float(match.detach()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += len(b.ids)
        if run.step % 200 == 0:
            told = ["lm %.3f, ul %.4f, ln %.3f, accuracy %.3f" % tuple(np.mean(recent, 0))] if recent else []
            told += ["matching %.4f" % np.mean(recent_matches)] if recent_matches else []
            print("%5.1f min, step %d, %d rows: %s" % (run.minutes(), run.step, seen, "; ".join(told)), flush=True)
            recent, recent_matches = [], []
        if run.due("checkpoint", 15):
            t5.save(model, out)
            judged()
    t5.save(model, out)
    judged()


if __name__ == "__main__":
    sys.exit(main())
