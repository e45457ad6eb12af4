"""Batches for a device that is faster than one process can make them: some processes make them, each from its own part of the data.

Kinds of batches, each in a queue of its own:

    labelled    ranking.Batch of prompts of the labelled sets
    matching    (ranking.Batch of texts with phrases and the teacher's shares, the texts' numbers in Matching)
    texts       (ids, keep) of unlabelled text: Wikipedia and prompts, half each
"""

import multiprocessing
import os
import queue
import random
import threading
import time
from itertools import islice
from typing import NamedTuple

import numpy as np
import sentencepiece
import torch

import prompts
import ranking
import train
from matching import Matching
from texts import batch

POOL = 8192  # prompts or texts that are sorted into batches
MOST = 768  # tokens of all choices of a prompt: attention among them takes memory by the square
MULTIPLE = 16  # of tokens of an input, and of columns of a decoder's row


class Source(NamedTuple):
    sets: str
    tokenizer: str
    matching: str
    wiki: str
    longest: int  # tokens of an input
    tokens: dict  # of a batch of each kind


class Encoder:
    """A processor that remembers the pieces of short texts, which are labels mostly."""

    def __init__(self, path):
        self.processor, self.known = sentencepiece.SentencePieceProcessor(model_file=path), {}

    def encode(self, texts):
        known = self.known
        missing = [t for t in texts if t not in known]
        new = dict(zip(missing, self.processor.encode(missing)))
        if len(known) < 200_000:
            known.update((t, ids) for t, ids in new.items() if len(t) < 40)
        return [new[t] if t in new else known[t] for t in texts]


def shortened(item, r):
    """Without some of the wrong choices, if all of them together are too long."""
    total = sum(map(len, item.choices))
    if total <= MOST:
        return item
    kept, total = {item.right}, len(item.choices[item.right])
    for i in r.sample(range(len(item.choices)), len(item.choices)):
        if i not in kept and total + len(item.choices[i]) <= MOST:
            kept.add(i)
            total += len(item.choices[i])
    kept = sorted(kept)
    return item._replace(choices=[item.choices[i] for i in kept], right=kept.index(item.right))


def labelled(source, encoder, sets, r):
    names = list(sets.rows)
    weights = [min(s["rows"], train.LARGEST) ** 0.5 for s in sets.about.values()]
    while True:
        names_now = r.choices(names, weights, k=POOL)
        chosen = [sets.prompt(r, n, r.choice(sets.rows[n])) for n in names_now]
        items = [shortened(item, r) for item in ranking.items_of(encoder, chosen, source.longest)]
        groups = list(ranking.batches(items, source.tokens["labelled"]))
        for g in r.sample(groups, len(groups)):
            yield ranking.collate(g, MULTIPLE)


def matching(source, encoder, sets, r, part, parts):
    m = Matching(source.matching)
    mine = range(part, len(m.texts), parts)
    while True:
        texts = r.choices(mine, k=POOL)
        chosen, shares = zip(*(m.prompt_of(r, i) for i in texts))
        items = ranking.items_of(encoder, chosen, source.longest, shares)
        number = {id(item): i for item, i in zip(items, texts)}
        groups = list(ranking.batches(items, source.tokens["matching"]))
        for g in r.sample(groups, len(groups)):
            yield ranking.collate(g, MULTIPLE), torch.tensor([number[id(item)] for item in g])


def texts(source, encoder, sets, r, part, parts, longest=128):
    names = list(sets.rows)
    with open(source.wiki, encoding="utf-8") as f:
        wiki = list(islice(f, part, None, parts))
    while True:
        lines = r.choices(wiki, k=POOL // 2)
        lines += [sets.prompt(r, n, r.choice(sets.rows[n])).text for n in r.choices(names, k=POOL // 2)]
        rows = sorted((ranking.input_of(ids, longest) for ids in encoder.encode(lines)), key=len)
        groups = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row) > source.tokens["texts"]:
                groups.append([])
            groups[-1].append(row)
        for g in r.sample(groups, len(groups)):
            yield batch(g, -(-len(g[-1]) // MULTIPLE) * MULTIPLE)


def small(x):
    """Tensors as arrays, of 16 bits where that suffices: tensors would go from process to process by file descriptors, of which there are few."""
    if not isinstance(x, torch.Tensor):
        return x if x is None else tuple(map(small, x))
    wide = x.dtype is torch.int64
    return x.to(torch.int16 if wide and int(x.max()) < 1 << 15 else torch.int32 if wide else x.dtype).numpy()


def large(x, device):
    """The opposite, on a device."""
    if not isinstance(x, torch.Tensor):
        return x if x is None else tuple(large(y, device) for y in x)
    y = x.to(device, non_blocking=True)
    return y if x.dtype in (torch.bool, torch.float32) else y.long()


def pinned(x, pin):
    if not isinstance(x, np.ndarray):
        return x if x is None else tuple(pinned(y, pin) for y in x)
    y = torch.from_numpy(x)
    return y.pin_memory() if pin else y


def work(source, queues, part, parts, seed):
    torch.set_num_threads(1)
    r, encoder = random.Random(seed * 1000 + part), Encoder(f"{source.tokenizer}/spiece.model")
    sets = prompts.Sets(source.sets, part=part, parts=parts)
    sets.rows = {name: rows for name, rows in sets.rows.items() if rows}
    sets.about = {name: sets.about[name] for name in sets.rows}
    streams = {"labelled": labelled(source, encoder, sets, r), "matching": matching(source, encoder, sets, r, part, parts),
               "texts": texts(source, encoder, sets, r, part, parts)}
    while True:
        kind = min(queues, key=lambda k: queues[k].qsize())
        queues[kind].put(small(next(streams[kind])))


class Feed:
    def __init__(self, source, processes, seed, room=24):
        """To be made before anything is done with a GPU, since the processes are forked."""
        context = multiprocessing.get_context("fork")
        self.queues = {kind: context.Queue(room) for kind in source.tokens}
        self.processes = [context.Process(target=work, args=(source, self.queues, i, processes, seed), daemon=True) for i in range(processes)]
        for p in self.processes:
            p.start()
        self.ready, self.waited = {}, 0.0  # seconds

    def start(self, device):
        """Copies to memory that the device can read by itself (a copy of other memory waits for all that the device has to do)."""
        self.device = device
        for kind, q in self.queues.items():
            self.ready[kind] = queue.Queue(3)
            threading.Thread(target=self.fetch, args=(q, self.ready[kind], device.type == "cuda"), daemon=True).start()

    @staticmethod
    def fetch(source, to, pin):
        while True:
            to.put(pinned(source.get(), pin))

    def next(self, kind):
        started = time.monotonic()
        batch = self.ready[kind].get(timeout=300)
        self.waited += time.monotonic() - started
        got = large(batch, self.device)
        if kind == "labelled":
            return ranking.Batch(*got)
        return (ranking.Batch(*got[0]), got[1]) if kind == "matching" else got

    def close(self):
        for p in self.processes:
            p.kill()


def processes_here():
    return max(1, len(os.sched_getaffinity(0)) - 1)
