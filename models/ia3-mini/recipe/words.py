"""Trains the student with the decoder at one position only, where an answer is a bag of words.

    words.py --matching DIR --sets DIR --tokenizer DIR --model DIR --minutes N [--frozen MINUTES] [--out DIR]

As after decoder.py, one state of the decoder gives the log probability of every token of every answer. So all phrases are scored for the
price of one: half of the steps learn the teacher's shares among all of them and among groups of 32, the others the labels of prompts. The decoder
reads its start, or a token by chance, since the token before is to matter little. Every hundredth text is held out.
"""

import random
import sys

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

import prompts
import ranking
import t5
import train
from decoder import bags, divergences
from matching import Matching
from run import Run, options
from texts import batch

HELD_OUT = 100  # each of so many texts
ROWS = 64  # texts whose prompts are made at once
HELD_OUT_TOKENS = 6144  # of a batch
OTHER = 0.7  # how often a token by chance is read


def log_p(model, ids, keep):
    """Of each piece, at one position: [rows, pieces]"""
    start = torch.randint(model.shared.num_embeddings, (len(ids), 1)) * (torch.rand(len(ids), 1) < OTHER)
    return model.logits(model.decode(start, model.encode(ids, keep), keep)[:, 0]).log_softmax(-1)


def labelled_losses(model, b):
    """(-log p of the right choice, -log softmax of its score, accuracy), with mean log p of tokens as T-Few has them"""
    s = ranking.scores(log_p(model, b.ids, b.keep)[b.row, b.targets], b)
    return -s.gather(1, b.right[:, None]).mean(), F.cross_entropy(s, b.right), (s.argmax(1) == b.right).float().mean()


class Phrases:
    def __init__(self, matching, processor, pieces):
        self.matching, self.processor = matching, processor
        self.bags = bags(processor, matching.phrases, pieces)

    def batches(self, r, texts, longest, tokens):
        """Batches (numbers of texts, ids, keep) of prompts of similar lengths, at most so many tokens each if there is more than one."""
        items = []
        for at in range(0, len(texts), ROWS):
            some = texts[at:at + ROWS]
            asked = self.matching.asked(r, some, self.matching.cosines(some))
            items += zip(some, (ranking.input_of(ids, longest) for ids in self.processor.encode(asked)))
        items.sort(key=lambda item: len(item[1]))
        groups, group = [], []
        for item in items:
            if group and (len(group) + 1) * len(item[1]) > tokens:
                groups.append(group)
                group = []
            group.append(item)
        return [([i for i, _ in g], *batch([ids for _, ids in g])) for g in groups + [group]]

    def learned(self, r, longest, tokens):
        """Batches without end, of all texts but those that are held out."""
        texts = [i for i in range(len(self.matching.texts)) if i % HELD_OUT]
        while True:
            batches = self.batches(r, r.sample(texts, min(train.POOL // 2, len(texts))), longest, tokens)
            yield from r.sample(batches, len(batches))

    def losses(self, model, texts, ids, keep):
        """Divergences from the teacher among all phrases, and among groups of 32, for texts given by number, and their prompts."""
        targets = torch.from_numpy(self.matching.cosines(texts) / self.matching.temperature)
        return divergences(torch.sparse.mm(self.bags, log_p(model, ids, keep).T).T, targets)

    @torch.no_grad()
    def held_out(self, model, r, longest, most=256):
        batches = self.batches(r, range(0, len(self.matching.texts), HELD_OUT)[:most], longest, HELD_OUT_TOKENS)
        return np.average([[float(x) for x in self.losses(model, *b)] for b in batches], axis=0, weights=[len(b[0]) for b in batches])


def arguments():
    p = options(__doc__, "sets", "matching")
    p.add_argument("--rate", type=float, default=4e-4, help="of the decoder (4e-4)")
    p.add_argument("--encoder-rate", type=float, default=1e-4)
    p.add_argument("--embedding-rate", type=float, default=1e-3)
    p.add_argument("--tokens", type=int, default=8192, help="cost of a batch, in tokens (8192)")
    p.add_argument("--longest", type=int, default=256, help="tokens of an input (256)")
    p.add_argument("--frozen", type=float, default=1e9, help="minutes in which only the decoder learns, at first (all)")
    p.add_argument("--lm", type=float, default=0.1, help="weight of the language model's loss, which a bag of words hardly fits (0.1)")
    p.add_argument("--share", type=float, default=0.5, help="of the steps, with the teacher's vectors (0.5)")
    return p.parse_args()


def main():
    o = arguments()
    r = random.Random(o.seed)
    torch.manual_seed(o.seed)
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{o.tokenizer}/spiece.model")
    model, out = t5.load(o.model), o.out or o.model
    phrases = Phrases(Matching(o.matching), processor, model.shared.num_embeddings)
    labelled = train.stream(prompts.Sets(o.sets), processor, r, o.longest, o.tokens)
    learned = phrases.learned(r, o.longest, o.tokens)
    print("before: %.3f of all phrases, %.3f of 32" % tuple(phrases.held_out(model, r, o.longest)), flush=True)
    optimizer = train.optimizer_of(model, o.rate, o.encoder_rate, o.embedding_rate)
    train.freeze(model, o.frozen > 0)
    run, recent = Run(o.minutes, optimizer, 50), {True: [], False: []}
    while run.next():
        if not model.shared.weight.requires_grad and run.minutes() >= o.frozen:
            train.freeze(model, False)
        optimizer.zero_grad()
        matched = r.random() < o.share
        found = phrases.losses(model, *next(learned)) if matched else labelled_losses(model, next(labelled))
        ((1 if matched else o.lm) * found[0] + found[1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent[matched].append([float(x.detach()) for x in found])
        if run.due("line", 2) and all(recent.values()):
            told = (*np.mean(recent[False], 0), *np.mean(recent[True], 0))
            print("%5.1f min, step %d: lm %.3f, ln %.3f, accuracy %.3f; all phrases %.3f, 32 %.3f" % (run.minutes(), run.step, *told), flush=True)
            recent = {True: [], False: []}
        if run.due("checkpoint", 10):
            t5.save(model, out)
    t5.save(model, out)
    print("after: %.3f of all phrases, %.3f of 32" % tuple(phrases.held_out(model, r, o.longest)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
