#!/usr/bin/env python3
"""Writes weighting/t5-relu-tied.safetensors and weighting/t5-gated-untied.safetensors for test/engine/test_weighting.c.

(IA)3 from the golden adapter with a weight for each of the ten examples, which may be 0. `weights` has them as they are
given, with any mean. MODE.losses (total, lm, unlikelihood, length_norm) and MODE.grad.TENSOR are of five examples, with
weights of the losses that differ; MODE.steps (the total loss before each of twenty steps of Adafactor) and
MODE.final.TENSOR are of all losses alike. MODE is how losses are averaged, `batch` or `example`. Everything is computed in
float64 and stored in float32.
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
WEIGHTS = [3.0, 0.5, 0.0, 1.0, 7.0, 0.25, 2.0, 1.0, 0.0, 40.0]


def losses(model, examples, weights, mode, of_losses=(1.0, 1.0, 1.0)):
    """The three losses of a batch and their weighted sum. The examples' weights multiply what is summed; what the sums are
    divided by counts tokens, or examples, whatever they weigh."""
    lm, wrong, choice, gold_tokens, wrong_tokens = [], [], [], [], []
    for ids, choices, label in examples:
        encoded = oracle.encode(model, ids)
        lps = [oracle.logprobs(model, encoded, c) for c in choices]
        others = torch.cat([x for i, x in enumerate(lps) if i != label])
        lm.append(-lps[label].sum())
        wrong.append(-torch.log(1.01 - torch.exp(others)).sum())
        choice.append(torch.nn.functional.cross_entropy(torch.stack([x.mean() for x in lps]), torch.tensor(label)))
        gold_tokens.append(len(lps[label]))
        wrong_tokens.append(len(others))
    w = torch.tensor(weights, dtype=torch.float64)
    lm, wrong, choice = (w * torch.stack(x) for x in (lm, wrong, choice))
    if mode == "batch":
        parts = lm.sum() / sum(gold_tokens), wrong.sum() / sum(wrong_tokens), choice.sum() / len(examples)
    else:
        parts = tuple(x.sum() / len(examples) for x in (lm / torch.tensor(gold_tokens), wrong / torch.tensor(wrong_tokens), choice))
    return sum(w * p for w, p in zip(of_losses, parts)), parts


def run(golden, mode, out):
    weights = load_file(f"{golden.name}/model.safetensors")
    vectors = load_file(f"{golden.name}/adapter/adapter_model.safetensors")
    model = oracle.build(golden, weights, vectors, torch.float64)
    parameters, examples = oracle.vectors_of(model), configs.draw_examples(golden)
    relative = np.array(WEIGHTS) / np.mean(WEIGHTS)
    # with equal weights these are the losses of the other references
    for ours, theirs in zip(losses(model, examples[:5], [1] * 5, mode)[1], oracle.losses(model, examples[:5], mode)[1]):
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
os.makedirs("weighting", exist_ok=True)
for golden in configs.CONFIGS:
    if golden.name in ("t5-relu-tied", "t5-gated-untied"):
        out = {"weights": np.array(WEIGHTS), "of_losses": np.array(OF_LOSSES)}
        with oracle.precision(torch.float64):
            for mode in ("batch", "example"):
                run(golden, mode, out)
        save_file({n: np.ascontiguousarray(x, dtype=np.float32) for n, x in out.items()},
                  f"weighting/{golden.name}.safetensors")
        print(golden.name, len(out), "tensors")
