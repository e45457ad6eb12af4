"""Ranking choices: batches of prompts with their choices, and T-Few's losses (arXiv 2205.05638, section 3.2) over them."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from texts import END, batch

LONGEST_CHOICE = 24
IGNORED = -100


class Item(NamedTuple):
    ids: list  # of the input, with </s>
    choices: list  # of lists of ids, each with </s>
    right: int
    shares: object = None  # instead of the right one: what each choice is to have


class Batch(NamedTuple):
    ids: torch.Tensor  # [rows, tokens]
    keep: torch.Tensor  # [rows, tokens]
    targets: torch.Tensor  # [rows, choices, tokens of a choice], IGNORED where there is nothing
    right: torch.Tensor  # [rows]
    shares: torch.Tensor | None  # [rows, choices]


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


def collate(items):
    ids, keep = batch([i.ids for i in items])
    most, longest = max(len(i.choices) for i in items), max(len(c) for i in items for c in i.choices)
    targets = np.full((len(items), most, longest), IGNORED, np.int64)
    for row, i in zip(targets, items):
        for to, c in zip(row, i.choices):
            to[:len(c)] = c
    shares = None
    if items[0].shares is not None:
        shares = torch.from_numpy(np.stack([np.pad(i.shares, (0, most - len(i.shares))) for i in items])).float()
    return Batch(ids, keep, torch.from_numpy(targets), torch.tensor([i.right for i in items]), shares)


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
    present, at = targets.unique(return_inverse=True)
    others = size - len(present)
    if not 0 < sample < others:
        return F.cross_entropy(model.logits(states), targets, reduction="none")
    absent = torch.ones(size, dtype=torch.bool).index_fill(0, present, False).nonzero().squeeze(1)
    drawn = absent[torch.randperm(others)[:sample]]
    logits = model.logits(states, torch.cat([present, drawn]))
    logits = logits + F.pad(torch.full((sample,), math.log(others / sample)), (len(present), 0))
    return F.cross_entropy(logits, at, reduction="none")


def log_probabilities(model, b, sample=0):
    """(log p of each token of each choice: [tokens], its row and choice: [tokens] each); sample: see above, 0: all pieces"""
    starts = F.pad(b.targets.clamp(min=0)[..., :-1], (1, 0))
    row, choice, token = torch.nonzero(b.targets != IGNORED, as_tuple=True)
    count = torch.bincount(row, minlength=len(b.targets))
    at = torch.arange(len(row)) - (count.cumsum(0) - count)[row]  # in its row, where choices stand one behind the other
    pack = lambda values, rest: torch.full((len(count), int(count.max())), rest).index_put((row, at), values)
    states = model.decode_choices(pack(starts[row, choice, token], 0), pack(choice, -1), pack(token, 0), model.encode(b.ids, b.keep), b.keep)
    return -negative_log_p(model, states[row, at], b.targets[row, choice, token], sample), row, choice


def scores(log_p, row, choice, shape):
    """Mean log p of each choice, -inf where there is none: [rows, choices]"""
    at = row * shape[1] + choice
    total = log_p.new_zeros(shape[0] * shape[1]).index_add(0, at, log_p)
    count = torch.bincount(at, minlength=len(total))
    return total.div(count.clamp(min=1)).masked_fill(count == 0, -torch.inf).reshape(shape)


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
    shape = b.targets.shape[:2]
    log_p, row, choice = log_probabilities(model, b, sample)
    s = scores(log_p, row, choice, shape)
    right = s.gather(1, b.right[:, None]).squeeze(1)
    wrong = choice != b.right[row]
    ul = -torch.log1p(-log_p[wrong].exp().clamp(max=1 - 1e-6)).mean() if wrong.any() else log_p.new_zeros(())
    return Losses(-right.mean(), ul, F.cross_entropy(s, b.right), (s.argmax(1) == b.right).float().mean())


def matching_loss(model, b, sample=0):
    """Cross-entropy between the shares and the softmax of the scores; 0 where they agree."""
    s = scores(*log_probabilities(model, b, sample), b.targets.shape[:2])
    log_q = s.log_softmax(1).masked_fill(b.shares == 0, 0)
    return (torch.xlogy(b.shares, b.shares) - b.shares * log_q).sum(1).mean()
