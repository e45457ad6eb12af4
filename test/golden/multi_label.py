#!/usr/bin/env python3
"""Writes multi_label/t5-relu-tied.safetensors and multi_label/t5-gated-untied.safetensors for test/engine/test_multi_label.c.

(IA)3 from the golden adapter on the ten golden examples, of which all but 0, 3, 6 and 9 are multi-label ones: each choice,
without its </s>, is a label, and is followed by the tokens YES or NO and </s>. Only these are scored. `right.N` has 1 for
each right label of example N, 0 for the others; one example has none, and one all. The examples have the weights
`weights`. `scores.N` has the mean log-likelihoods of YES less those of NO. MODE.losses (total, lm, unlikelihood,
length_norm) and MODE.grad.TENSOR are of five examples, with weights of the losses that differ; MODE.steps (the total loss
before each of twenty steps of Adafactor) and MODE.final.TENSOR are of all losses alike. MODE is how losses are averaged,
`batch` or `example`. Everything is computed in float64 and stored in float32.
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from transformers import Adafactor  # noqa: E402

import configs  # noqa: E402
import oracle  # noqa: E402

STEPS, BATCH, RATE = 20, 4, 3e-3
OF_LOSSES = (0.5, 2.0, 3.0)
WEIGHTS = [3.0, 0.5, 1.0, 1.0, 7.0, 0.25, 2.0, 1.0, 0.0, 4.0]
YES, NO, END = [23], [31, 29], 1


def multi_label(golden):
    """[(ids, choices, None, label)] and [(ids, labels, right, None)]"""
    rng = np.random.default_rng(golden.seed + 5000)
    examples = []
    for i, (ids, choices, label) in enumerate(configs.draw_examples(golden)):
        if i % 3 == 0:
            examples.append((ids, choices, None, label))
            continue
        right = {1: [0] * len(choices), 4: [1] * len(choices)}.get(i, [int(x) for x in rng.integers(0, 2, len(choices))])
        examples.append((ids, [c[:-1] for c in choices], right, None))
        branches = [tuple(c + [*answer, END]) for c in examples[-1][1] for answer in (YES, NO)]
        assert all(c[-1] == END for c in choices) and len(set(branches)) == len(branches)
    return examples


def questions(model, example):
    """[(log-probabilities of the correct answer's tokens, [those of each wrong answer])], one for each label."""
    ids, choices, right, label = example
    encoded = oracle.encode(model, ids)
    if right is None:
        lps = [oracle.logprobs(model, encoded, c) for c in choices]
        return [(lps[label], lps[:label] + lps[label + 1:])]
    out = []
    for c, r in zip(choices, right):
        yes, no = (oracle.logprobs(model, encoded, c + answer + [END])[len(c):] for answer in (YES, NO))
        out.append((yes, [no]) if r else (no, [yes]))
    return out


def losses(model, examples, weights, mode, of_losses=(1.0, 1.0, 1.0)):
    """The three losses of a batch and their weighted sum. What an example's labels contribute, to sums and to what they are
    divided by, is averaged over its labels."""
    lm, wrong, choice, gold_tokens, wrong_tokens = [], [], [], [], []
    for e in examples:
        all_lm, all_wrong, all_choice, n_gold, n_wrong = [], [], [], [], []
        for correct, others in questions(model, e):
            means = torch.stack([correct.mean()] + [x.mean() for x in others])
            others = torch.cat(others)
            per = (len(correct), len(others)) if mode == "example" else (1, 1)
            all_lm.append(-correct.sum() / per[0])
            all_wrong.append(-torch.log(1.01 - torch.exp(others)).sum() / per[1])
            all_choice.append(-torch.log_softmax(means, 0)[0])
            n_gold.append(float(len(correct)))
            n_wrong.append(float(len(others)))
        for out, x in zip((lm, wrong, choice), (all_lm, all_wrong, all_choice)):
            out.append(torch.stack(x).mean())
        gold_tokens.append(np.mean(n_gold))
        wrong_tokens.append(np.mean(n_wrong))
    w = torch.tensor(weights, dtype=torch.float64)
    sums = [(w * torch.stack(x)).sum() for x in (lm, wrong, choice)]
    n = len(examples)
    by = (sum(gold_tokens), sum(wrong_tokens), n) if mode == "batch" else (n, n, n)
    parts = tuple(x / d for x, d in zip(sums, by))
    return sum(w * p for w, p in zip(of_losses, parts)), parts


def run(golden, mode, out):
    weights = load_file(f"{golden.name}/model.safetensors")
    vectors = load_file(f"{golden.name}/adapter/adapter_model.safetensors")
    model = oracle.build(golden, weights, vectors, torch.float64)
    parameters, examples = oracle.vectors_of(model), multi_label(golden)
    relative = np.array(WEIGHTS) / np.mean(WEIGHTS)
    with torch.no_grad():
        for i, e in enumerate(examples):
            if e[2] is None:
                continue
            answers = [(q[0].mean() - q[1][0].mean()) * (1 if r else -1) for q, r in zip(questions(model, e), e[2])]
            out[f"scores.{i}"] = np.array([float(x) for x in answers])
            out[f"right.{i}"] = np.array(e[2], dtype=float)
    # with ordinary examples only these are the losses of the other references
    plain = configs.draw_examples(golden)[:5]
    for ours, theirs in zip(losses(model, [(a, b, None, c) for a, b, c in plain], [1] * 5, mode)[1],
                            oracle.losses(model, plain, mode)[1]):
        assert abs(float(ours.detach()) - float(theirs.detach())) < 1e-12
    total, parts = losses(model, examples[:5], relative[:5], mode, OF_LOSSES)
    total.backward()
    out[f"{mode}.losses"] = np.array([float(x.detach()) for x in (total, *parts)])
    out |= {f"{mode}.grad.{n}": p.grad.numpy().copy() for n, p in parameters.items()}
    optimizer = Adafactor(list(parameters.values()), lr=RATE, weight_decay=0.0, scale_parameter=True,
                          relative_step=False, warmup_init=False)
    steps, schedule, clipped = [], oracle.falling(optimizer), 0
    for batch in configs.draw_plan(golden, STEPS, BATCH):
        optimizer.zero_grad()
        loss = losses(model, [examples[i] for i in batch], relative[batch], mode)[0]
        loss.backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)) > 1
        optimizer.step()
        schedule.step()
        steps.append(float(loss.detach()))
    out[f"{mode}.steps"] = np.array(steps)
    out |= {f"{mode}.final.{n}": p.detach().numpy().copy() for n, p in parameters.items()}
    print(golden.name, mode, clipped, "of", STEPS, "gradients were clipped")


os.chdir(os.path.dirname(os.path.abspath(__file__)))
os.makedirs("multi_label", exist_ok=True)
for golden in configs.CONFIGS:
    if golden.name in ("t5-relu-tied", "t5-gated-untied"):
        out = {"weights": np.array(WEIGHTS), "of_losses": np.array(OF_LOSSES)}
        with oracle.precision(torch.float64):
            for mode in ("batch", "example"):
                run(golden, mode, out)
        save_file({n: np.ascontiguousarray(x, dtype=np.float32) for n, x in out.items()},
                  f"multi_label/{golden.name}.safetensors")
        print(golden.name, len(out), "tensors")
