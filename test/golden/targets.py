#!/usr/bin/env python3
"""Writes targets/t5-relu-tied.safetensors and targets/t5-gated-untied.safetensors for test/engine/test_targets.c.

(IA)3 as peft computes it with some target_modules, on the checkpoints that generate.py left. Names are CASE.TENSOR (the
vectors, named as peft and the engine store them), CASE.scores.INPUT, CASE.losses (total, lm, unlikelihood, length_norm of
five examples), CASE.grad.TENSOR, CASE.steps (the total loss before each of twenty steps of Adafactor), and, after these,
CASE.final.TENSOR. Everything is computed in float64 and stored in float32.
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
CASES = {
    "standard": ["k", "v", "wo"],
    "all": ["q", "k", "v", "o", "wo"],
    "wo": ["wo"],
    "some": ["SelfAttention.q", "EncDecAttention.q", "EncDecAttention.k", "SelfAttention.v", "EncDecAttention.o"],
}


def run(golden, case, targets, out):
    weights = load_file(f"{golden.name}/model.safetensors")
    feedforward = [t for t in targets if t == "wo"]
    shapes = {n: tuple(p.shape) for n, p in
              oracle.vectors_of(oracle.wrap(oracle.make_base(golden), targets, feedforward)).items()}
    rng = np.random.default_rng(golden.seed + 6000)
    vectors = {n: (1 + 0.3 * rng.standard_normal(shapes[n])).astype(np.float32) for n in sorted(shapes)}
    model = oracle.build(golden, weights, vectors, torch.float64, targets, feedforward)
    out |= {f"{case}.{n}": x for n, x in vectors.items()}
    with torch.no_grad():
        for i, (ids, choices) in enumerate(configs.draw_inputs(golden)):
            encoded = oracle.encode(model, ids)
            out[f"{case}.scores.{i}"] = np.array([float(oracle.logprobs(model, encoded, c).mean()) for c in choices])
    examples, parameters = configs.draw_examples(golden), oracle.vectors_of(model)
    grads, (total, parts) = oracle.gradients(model, examples[:5], "batch")
    out[f"{case}.losses"] = np.array([total, *parts])
    out |= {f"{case}.grad.{n}": x for n, x in grads.items()}
    optimizer = Adafactor(list(parameters.values()), lr=RATE, weight_decay=0.0, scale_parameter=True,
                          relative_step=False, warmup_init=False)
    steps = []
    schedule = oracle.falling(optimizer)
    for batch in configs.draw_plan(golden, STEPS, BATCH):
        optimizer.zero_grad()
        loss = oracle.losses(model, [examples[i] for i in batch], "batch")[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        schedule.step()
        steps.append(float(loss.detach()))
    out[f"{case}.steps"] = np.array(steps)
    out |= {f"{case}.final.{n}": p.detach().numpy().copy() for n, p in parameters.items()}


os.chdir(os.path.dirname(os.path.abspath(__file__)))
os.makedirs("targets", exist_ok=True)
for golden in configs.CONFIGS:
    if golden.name in ("t5-relu-tied", "t5-gated-untied"):
        out = {}
        with oracle.precision(torch.float64):
            for case, targets in CASES.items():
                run(golden, case, targets, out)
        save_file({n: np.ascontiguousarray(x, dtype=np.float32) for n, x in out.items()},
                  f"targets/{golden.name}.safetensors")
        print(golden.name, len(out), "tensors")
