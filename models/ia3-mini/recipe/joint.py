"""Trains everything at once, for a GPU: the teacher's states, its rankings of phrases, and the labelled sets.

    joint.py --sets DIR --matching DIR --wiki FILE --teacher DIR --tokenizer DIR --model DIR --minutes N [--device cuda] [--out DIR]

Each step has a batch of each kind (feed.py) and adds their losses:

    labelled    T-Few's three (ranking.py)
    matching    divergence from the teacher's shares among up to 32 phrases, whose tokens the decoder reads one after the other; and, in
                the first part of the run, among all phrases as bags of words at one position (words.py)
    texts       the teacher's states of each layer and its pooled vector (distill.py); later only in every fourth step

--matching is a folder with texts, phrases, their vectors and nearest.npy (nearest.py). Where --model has heads.pt, distillation begins with these heads.
Matrices are moved by Muon. The rates fall to zero over the minutes. The checkpoint goes to --out (--model) every minute.
"""

import os
import sys
import time

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

import decoder
import ranking
import t5
import train
from distill import POOLED, Distiller
from feed import Feed, Source, processes_here
from matching import TEMPERATURE
from muon import Both
from run import Run, options
from teacher import Aligned
from texts import lines_of

OTHER = 0.7  # how often a bag of words follows a token by chance, since the token before is to matter little
BAGS_UNTIL, TEXTS_UNTIL = 0.6, 0.35  # parts of the run: bags of words count until then, ever less; texts come in every second step until then
LATER_TEXTS = 4  # afterwards in one of so many steps


class Bags:
    """Rankings of all phrases as bags of words."""

    def __init__(self, folder, processor, pieces, device):
        phrases = list(lines_of(f"{folder}/phrases.jsonl"))
        self.bags = decoder.bags(processor, phrases, pieces)
        if device.type == "cuda":  # where products of dense matrices are the faster ones
            self.bags = self.bags.to(device).to_dense()
        self.texts, self.phrases = (torch.from_numpy(np.load(f"{folder}/{n}.npy")).to(device) for n in ("texts", "phrases"))

    def loss(self, model, texts, memory, keep):
        """memory: the encoder's output for prompts about the texts, given by number"""
        start = torch.randint(model.shared.num_embeddings, (len(texts), 1), device=memory.device)
        start = start * (torch.rand(len(texts), 1, device=memory.device) < OTHER)
        logits = model.logits(model.decode(start, memory, keep)[:, 0])
        with torch.autocast(memory.device.type, enabled=False):
            scores = (self.bags @ logits.float().log_softmax(-1).T).T
            targets = (self.texts[texts].float() @ self.phrases.float().T / TEMPERATURE).log_softmax(-1)
            return (targets.exp() * (targets - scores.log_softmax(-1))).sum(-1).mean()


def optimizer_of(d, rate, encoder_rate, embedding_rate):
    """Muon for the matrices of blocks, AdamW for all else."""
    matrices, rest = {"encoder": [], "decoder": []}, {"encoder": [], "decoder": [], "shared": []}
    for name, p in d.student.named_parameters():
        part = name.split(".")[0]
        (matrices if p.dim() == 2 and part != "shared" and "relative" not in name else rest)[part].append(p)
    rates = {"encoder": encoder_rate, "decoder": rate, "shared": embedding_rate}
    groups = lambda found: [{"params": ps, "top": rates[part]} for part, ps in found.items()]
    return Both(groups(matrices), [*groups(rest), {"params": list(d.heads.parameters()), "top": embedding_rate}], weight_decay=0.01)


def arguments():
    p = options(__doc__, "sets", "matching", "wiki", "teacher")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--processes", type=int, default=processes_here(), help="that make batches (all cores but one)")
    p.add_argument("--rate", type=float, default=1.2e-3, help="of the decoder (1.2e-3)")
    p.add_argument("--encoder-rate", type=float, default=6e-4)
    p.add_argument("--embedding-rate", type=float, default=1e-3)
    p.add_argument("--tokens", type=int, default=65536, help="cost of a batch of labelled rows; others have three quarters (65536)")
    p.add_argument("--longest", type=int, default=320, help="tokens of an input (320)")
    p.add_argument("--lm", type=float, default=0.5)
    p.add_argument("--ul", type=float, default=0.5)
    p.add_argument("--bags", type=float, default=0.5, help="weight of bags of words at first (0.5)")
    p.add_argument("--warmup", type=int, default=80)
    p.add_argument("--profile", type=int, default=0, help="instead of training, says where the time of so many steps goes")
    p.add_argument("--every", type=float, default=0.25, help="minutes between lines (0.25)")
    return p.parse_args()


class Trainer:
    def __init__(self, o, feed):
        self.o, self.feed, self.device = o, feed, torch.device(o.device)
        processor = sentencepiece.SentencePieceProcessor(model_file=f"{o.tokenizer}/spiece.model")
        self.model = t5.load(o.model).to(self.device)
        heads = f"{o.model}/heads.pt"
        half = torch.half if self.device.type == "cuda" else torch.float32
        self.d = Distiller(self.model, Aligned(o.teacher, o.tokenizer, self.device, half), heads if os.path.exists(heads) else None).to(self.device)
        self.bags = Bags(o.matching, processor, self.model.shared.num_embeddings, self.device)
        self.judge = train.Judge(o.sets, processor, o.longest, self.device)
        # positions are left as they are in the encoder: attention whose bias needs a gradient is not fused
        self.model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.requires_grad_(False)
        self.told, self.count = {}, 0
        feed.start(self.device)

    def auto(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def tell(self, name, value):
        total, n = self.told.get(name, (0, 0))
        self.told[name] = total + value.detach(), n + 1

    def labelled(self):
        b = self.feed.next("labelled")
        with self.auto():
            found = ranking.losses(self.model, b)
        self.count += len(b.ids)
        for name, value in found._asdict().items():
            self.tell(name, value)
        return found.ln + self.o.lm * found.lm + self.o.ul * found.ul

    def matching(self, weight):
        b, texts = self.feed.next("matching")
        with self.auto():
            memory = self.model.encode(b.ids, b.keep)
            loss = ranking.matching_loss(self.model, b, memory=memory)
            self.tell("matching", loss)
            if weight > 0:
                bags = self.bags.loss(self.model, texts, memory, b.keep)
                self.tell("bags", bags)
                loss = loss + weight * bags
        self.count += len(b.ids)
        return loss

    def texts(self):
        ids, keep = self.feed.next("texts")
        with self.auto():
            states, vector = self.d.losses(ids, keep)
        self.count += len(ids)
        self.tell("states", states)
        self.tell("cosine", 1 - vector)
        return states + POOLED * vector

    def step(self, run):
        gone = run.seconds() / run.length
        self.labelled().backward()
        self.matching(self.o.bags * max(0, 1 - gone / BAGS_UNTIL)).backward()
        if run.step % (2 if gone < TEXTS_UNTIL else LATER_TEXTS) == 0:
            self.texts().backward()

    def judged(self):
        with self.auto():
            a = self.judge.accuracy(self.model)
        print("zero-shot: mean %.3f; %s" % (np.mean(list(a.values())), ", ".join(f"{k} {v:.3f}" for k, v in a.items())), flush=True)

    def line(self, run):
        told = ", ".join(f"{name} {float(total) / n:.3f}" for name, (total, n) in self.told.items())
        waiting = {k: q.qsize() for k, q in self.feed.queues.items()}
        print(f"{run.seconds():5.0f} s, step {run.step}, {self.count} rows: {told}; ready {waiting}, waited {self.feed.waited:.0f} s", flush=True)
        finite = all(np.isfinite(float(total)) for total, _ in self.told.values())
        self.told = {}
        return finite


def learn(t, optimizer, run):
    optimizer.zero_grad()
    t.step(run)
    torch.nn.utils.clip_grad_norm_(t.d.parameters(), 1.0)
    optimizer.step()


def profile(t, optimizer, run, steps, first=20):
    """Prints the time of a step, and what takes it, after the first steps."""
    done = torch.cuda.synchronize if t.device.type == "cuda" else lambda: None
    for _ in range(first):
        run.next()
        learn(t, optimizer, run)
    done()
    started, waited = time.monotonic(), t.feed.waited
    for _ in range(steps):
        run.next()
        learn(t, optimizer, run)
    done()
    print("%.0f ms a step, of which %.0f ms for a batch" % tuple(1000 * x / steps for x in (time.monotonic() - started, t.feed.waited - waited)))
    activities = [torch.profiler.ProfilerActivity.CPU, *[torch.profiler.ProfilerActivity.CUDA] * (t.device.type == "cuda")]
    with torch.profiler.profile(activities=activities) as p:
        for _ in range(steps):
            run.next()
            learn(t, optimizer, run)
        done()
    for by in ("self_cpu_time_total", f"self_{t.device.type}_time_total"):
        print(p.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60))


def main():
    o = arguments()
    torch.manual_seed(o.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    tokens = {"labelled": o.tokens, "matching": o.tokens * 3 // 4, "texts": o.tokens * 3 // 4}
    feed = Feed(Source(o.sets, o.tokenizer, o.matching, o.wiki, o.longest, tokens), o.processes, o.seed)
    started = time.monotonic()
    t, out = Trainer(o, feed), o.out or o.model
    t.judged()
    print(f"{time.monotonic() - started:.1f} s to begin", flush=True)
    optimizer = optimizer_of(t.d, o.rate, o.encoder_rate, o.embedding_rate)
    run = Run(o.minutes, optimizer, o.warmup)
    if o.profile:
        profile(t, optimizer, run, o.profile)
        feed.close()
        return
    while run.next():
        learn(t, optimizer, run)
        if run.step <= 3 or run.due("line", o.every):
            if not t.line(run):
                sys.exit("a loss is not finite; the last checkpoint stays")
        if run.due("checkpoint", 1):
            t.d.save(out)
            t.judged()
    t.d.save(out)
    t.judged()
    feed.close()


if __name__ == "__main__":
    sys.exit(main())
