"""Ranking choices: batches of prompts with their choices, and T-Few's losses (arXiv 2205.05638, section 3.2) over them."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from texts import END, batch

LONGEST_CHOICE = 24


class Item(NamedTuple):
    ids: list  # of the input, with </s>
    choices: list  # of lists of ids, each with </s>
    right: int
    shares: object = None  # instead of the right one: what each choice is to have


class Batch(NamedTuple):
    """Prompts with their choices. The choices of a row stand one behind the other, each token in a column of its own."""

    ids: torch.Tensor  # [rows, tokens]
    keep: torch.Tensor  # [rows, tokens]
    starts: torch.Tensor  # [rows, columns], what the decoder reads: 0 first in each choice
    choice: torch.Tensor  # [rows, columns], which choice a token belongs to, -1 where there is nothing
    place: torch.Tensor  # [rows, columns], where in its choice
    row: torch.Tensor  # [tokens of all choices]
    column: torch.Tensor  # [tokens of all choices]
    targets: torch.Tensor  # [tokens of all choices]
    count: torch.Tensor  # [rows, choices], tokens of each choice, 0 where there is none
    right: torch.Tensor  # [rows]
    shares: torch.Tensor | None  # [rows, choices]

    def to(self, device):
        return Batch(*(x if x is None else x.to(device, non_blocking=True) for x in self))


def input_of(ids, longest):
    """With </s>. Of inputs that are too long the middle is left out: both ends may hold the question."""
    half = (longest - 1) // 2
    return (ids if len(ids) < longest else ids[:longest - 1 - half] + ids[-half:]) + [END]


def choice_of(ids):
    return ids[:LONGEST_CHOICE - 1] + [END]


def inputs(processor, texts, longest=256):
    """(ids, keep), [texts, tokens] each"""
    return batch([input_of(ids, longest) for ids in processor.encode(texts)])


def items_of(processor, prompts, longest, shares=None):
    """Prompts as numbers."""
    texts = processor.encode([p.text for p in prompts])
    flat = iter(processor.encode([c for p in prompts for c in p.choices]))
    return [Item(input_of(ids, longest), [choice_of(next(flat)) for _ in p.choices], p.right, share)
            for p, ids, share in zip(prompts, texts, shares or [None] * len(prompts))]


def collate(items, multiple=1):
    """A Batch; numbers of tokens and of columns are multiples of that."""
    up = lambda n: -(-n // multiple) * multiple
    ids, keep = batch([i.ids for i in items], up(max(len(i.ids) for i in items)))
    columns = up(max(sum(map(len, i.choices)) for i in items))
    starts, place, choice = (np.full((len(items), columns), x, np.int64) for x in (0, 0, -1))
    count = np.zeros((len(items), max(len(i.choices) for i in items)), np.int64)
    for row, i in enumerate(items):
        lengths = list(map(len, i.choices))
        n = sum(lengths)
        count[row, :len(lengths)] = lengths
        choice[row, :n] = np.repeat(np.arange(len(lengths)), lengths)
        place[row, :n] = np.concatenate(list(map(np.arange, lengths)))
        starts[row, :n] = [t for c in i.choices for t in [0, *c[:-1]]]
    row, column = np.nonzero(choice >= 0)
    targets = np.array([t for i in items for c in i.choices for t in c])
    shares = None
    if items[0].shares is not None:
        shares = torch.from_numpy(np.stack([np.pad(i.shares, (0, count.shape[1] - len(i.shares))) for i in items])).float()
    numbers = map(torch.from_numpy, (starts, choice, place, row, column, targets, count))
    return Batch(ids, keep, *numbers, torch.tensor([i.right for i in items]), shares)


def cost(item):
    """Roughly the work that an item takes, in tokens of the encoder."""
    return len(item.ids) + 0.7 * sum(map(len, item.choices))


def batches(items, most):
    """Groups of items with similar numbers of tokens in inputs and in choices, each of a cost of about `most`."""
    size = lambda i: sum(map(len, i.choices)).bit_length()
    group, widest = [], 0
    for i in sorted(items, key=lambda i: (size(i), len(i.ids))):
        widest = max(cost(i), widest if group else 0)
        if group and (size(i) != size(group[0]) or (len(group) + 1) * widest > most):
            yield group
            group, widest = [], cost(i)
        group.append(i)
    yield group


def negative_log_p(model, states, targets, sample):
    """
    -log p of each target: [tokens], from states [tokens, d_model]. With a sample, the softmax goes over the pieces that occur among
    the targets and so many others, drawn without preference; each of the latter stands for all that were not drawn, so that
    the estimate of the sum of exponentials is unbiased (importance sampling, Bengio and Senécal 2008).
    """
    size = model.shared.num_embeddings
    if not sample:
        return F.cross_entropy(model.logits(states), targets, reduction="none")
    present, at = targets.unique(return_inverse=True)
    others = size - len(present)
    if sample >= others:
        return F.cross_entropy(model.logits(states), targets, reduction="none")
    absent = torch.ones(size, dtype=torch.bool).index_fill(0, present, False).nonzero().squeeze(1)
    drawn = absent[torch.randperm(others)[:sample]]
    logits = model.logits(states, torch.cat([present, drawn]))
    logits = logits + F.pad(torch.full((sample,), math.log(others / sample)), (len(present), 0))
    return F.cross_entropy(logits, at, reduction="none")


def log_probabilities(model, b, sample=0, memory=None):
    """Log p of each token of each choice: [tokens]; sample: see above, 0: all pieces; memory: the encoder's output, if it is known."""
    memory = model.encode(b.ids, b.keep) if memory is None else memory
    states = model.decode_choices(b.starts, b.choice, b.place, memory, b.keep)
    used = states.flatten(0, 1).index_select(0, b.row * states.shape[1] + b.column)
    return -negative_log_p(model, used, b.targets, sample)


def scores(log_p, b):
    """Mean log p of each choice, -inf where there is none: [rows, choices]"""
    total = log_p.new_zeros(b.count.numel()).index_add(0, b.row * b.count.shape[1] + b.choice[b.row, b.column], log_p)
    return total.reshape(b.count.shape).div(b.count.clamp(min=1)).masked_fill(b.count == 0, -torch.inf)


class Losses(NamedTuple):
    lm: torch.Tensor
    ul: torch.Tensor
    ln: torch.Tensor
    accuracy: torch.Tensor


def losses(model, b, sample=0):
    """
    lm: -log p of a token of the right choice; ul: -log(1 - p) of a token of wrong choices; ln: -log softmax of the right score.
    lm, ln and accuracy are means over rows, ul over all tokens of wrong choices in the batch.
    """
    log_p = log_probabilities(model, b, sample)
    s = scores(log_p, b)
    wrong = (b.choice[b.row, b.column] != b.right[b.row]).float()
    ul = (-torch.log1p(-log_p.exp().clamp(max=1 - 1e-6)) * wrong).sum() / wrong.sum().clamp(min=1)
    return Losses(-s.gather(1, b.right[:, None]).mean(), ul, F.cross_entropy(s, b.right), (s.argmax(1) == b.right).float().mean())


def matching_loss(model, b, sample=0, memory=None):
    """Cross-entropy between the shares and the softmax of the scores; 0 where they agree."""
    s = scores(log_probabilities(model, b, sample, memory), b)
    log_q = s.log_softmax(1).masked_fill(b.shares == 0, 0)
    return (torch.xlogy(b.shares, b.shares) - b.shares * log_q).sum(1).mean()
