#!/usr/bin/env python3
"""Writes optimizers/t5-gated-untied.safetensors for test/engine/test_optimizer.c.

Twenty steps of (IA)3 from the golden adapter, with torch.optim.AdamW, and with moving averages as
torch.optim.swa_utils.AveragedModel computes them. Names are CASE.steps (the total loss before each step) and
CASE.final.TENSOR. Everything is computed in float64 and stored in float32.
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402
from transformers import Adafactor  # noqa: E402

import configs  # noqa: E402
import oracle  # noqa: E402

NAME, STEPS, BATCH = "t5-gated-untied", 20, 4
CASES = {
    "adamw": (lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.0), 0),
    "decay": (lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1), 0.9),
    "average": (lambda p: Adafactor(p, lr=3e-3, weight_decay=0.0, scale_parameter=True, relative_step=False,
                                    warmup_init=False), 0.8),
}


def run(golden, case, make, ema, out):
    weights = load_file(f"{golden.name}/model.safetensors")
    vectors = load_file(f"{golden.name}/adapter/adapter_model.safetensors")
    model = oracle.build(golden, weights, vectors, torch.float64)
    parameters, examples, steps = oracle.vectors_of(model), configs.draw_examples(golden), []
    values = torch.nn.ParameterList(parameters.values())
    optimizer = make(list(parameters.values()))
    averaged = AveragedModel(values, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
    schedule = oracle.falling(optimizer)
    for batch in configs.draw_plan(golden, STEPS, BATCH):
        optimizer.zero_grad()
        loss = oracle.losses(model, [examples[i] for i in batch], "batch")[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        schedule.step()
        if averaged:
            averaged.update_parameters(values)
        steps.append(float(loss.detach()))
    out[f"{case}.steps"] = np.array(steps)
    final = averaged.module if averaged else values
    out |= {f"{case}.final.{n}": p.detach().numpy().copy() for n, p in zip(parameters, final)}


os.chdir(os.path.dirname(os.path.abspath(__file__)))
os.makedirs("optimizers", exist_ok=True)
out = {}
with oracle.precision(torch.float64):
    for case, (make, ema) in CASES.items():
        run(next(g for g in configs.CONFIGS if g.name == NAME), case, make, ema, out)
save_file({n: np.ascontiguousarray(x, dtype=np.float32) for n, x in out.items()}, f"optimizers/{NAME}.safetensors")
print(len(out), "tensors")
