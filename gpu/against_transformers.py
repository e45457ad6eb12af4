#!/usr/bin/env python3
"""The engine on a device against transformers and peft, both on test/backbone with its golden adapter.

    against_transformers.py --engine build/gpu/ia3_engine --device cuda

Prints "ok - ..." or "not ok - ..." for each check. transformers computes in float32 on the CPU, and in bfloat16 (on the GPU
if there is one) to find out how large its own error is. The engine tokenizes, so no tokenizer is needed. A variable
IA3_ENGINE_NAME sets the variable NAME for the engine only, because Python must not load the engine's libraries.
"""

import argparse
import os
import subprocess
import sys

import torch
from peft import PeftModel
from transformers import T5ForConditionalGeneration

BACKBONE = "test/backbone"
ADAPTER = "test/golden/backbone/adapter"
CHOICES = ["yes", "no", "I do not know"]
WORDS = ("the patient was given a new drug and developed a rash after two days of treatment while others did not "
         "report anything unusual about it before the end").split()


def texts():
    """From one word to some hundred."""
    return [" ".join(WORDS[(i * 7 + k * (1 + i % 3)) % len(WORDS)] for k in range(1 + i * i // 8)) + "?"
            for i in range(16)]


def run(engine, *arguments, stdin=None):
    own = {name[len("IA3_ENGINE_"):]: value for name, value in os.environ.items() if name.startswith("IA3_ENGINE_")}
    result = subprocess.run([engine, *arguments], input=stdin, capture_output=True, text=True, env={**os.environ, **own})
    if result.returncode != 0:
        sys.exit(f"{' '.join(arguments[:4])}: {result.stderr.strip()[-300:]}")
    return result.stdout


def tokenize(engine, strings):
    """Ids of each string, the end of the sequence included."""
    lists = []
    for line in run(engine, "tokenize", "--backbone", BACKBONE, *strings).splitlines():
        position, token, _ = line.split("\t")
        if position == "1":
            lists.append([])
        lists[-1].append(int(token))
    assert len(lists) == len(strings)
    return lists


def engine_scores(engine, device, dtype, inputs, adapter):
    arguments = ["--adapter", f"{ADAPTER}/adapter_model.safetensors"] if adapter else []
    out = run(engine, "score", "--backbone", BACKBONE, "--device", device, "--dtype", dtype, "--choices",
              "|".join(CHOICES), *arguments, stdin="".join(t + "\n" for t in inputs))
    rows = [[float(x) for x in line.split("\t")[1:]] for line in out.splitlines()]
    return torch.tensor(rows, dtype=torch.float64)


@torch.inference_mode()
def transformers_scores(model, device, ids, choices):
    rows = []
    for text in ids:
        hidden = model.get_encoder()(input_ids=torch.tensor([text], device=device))[0]
        scores = []
        for choice in choices:
            starts = torch.tensor([[0] + choice[:-1]], device=device)
            logits = model(encoder_outputs=(hidden,), decoder_input_ids=starts).logits[0].double()
            lp = logits.log_softmax(1)[torch.arange(len(choice)), torch.tensor(choice)]
            scores.append(lp.mean().item())
        rows.append(scores)
    return torch.tensor(rows, dtype=torch.float64)


def load(dtype, device, adapter):
    model = T5ForConditionalGeneration.from_pretrained(BACKBONE).to(dtype)
    if adapter:
        model = PeftModel.from_pretrained(model, ADAPTER).get_base_model()
    return model.to(device).eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    inputs = texts()
    ids, choices = tokenize(options.engine, inputs), tokenize(options.engine, CHOICES)
    torch.set_num_threads(1)  # the backbone is small
    there = "cuda" if torch.cuda.is_available() else "cpu"
    failed = False

    def check(good, text):
        nonlocal failed
        failed = failed or not good
        print(f"{'ok' if good else 'not ok'} - {text}", flush=True)

    for adapter in (True, False):
        what = "with adapter" if adapter else "bare backbone"
        want = transformers_scores(load(torch.float32, "cpu", adapter), "cpu", ids, choices)
        theirs = (transformers_scores(load(torch.bfloat16, there, adapter), there, ids, choices) - want).abs()
        exact = engine_scores(options.engine, options.device, "float32", inputs, adapter)
        error = (exact - want).abs().max().item()
        check(error <= 1e-4, f"scores in float32, {what}: {error:.1e} (at most 1e-4)")
        check((exact.argmax(1) == want.argmax(1)).all().item(), f"choices in float32, {what}: the same")
        rough = engine_scores(options.engine, options.device, "bfloat16", inputs, adapter)
        error = (rough - want).abs()
        most = min(0.02, 1.5 * theirs.mean().item())
        check(error.mean().item() <= most, f"scores in bfloat16, {what}: mean error {error.mean().item():.4f} (at most "
                                           f"{most:.4f}), transformers' own {theirs.mean().item():.4f}")
        check(error.max().item() <= 0.2,
              f"scores in bfloat16, {what}: largest error {error.max().item():.4f} (at most 0.2)")
        top = want.sort(1, descending=True).values
        clear = (top[:, 0] - top[:, 1]) > 0.1
        same = rough.argmax(1) == want.argmax(1)
        check(bool(same[clear].all()) and clear.any().item(),
              f"choices in bfloat16, {what}: {int(same.sum())} of {len(same)} the same, all with a lead above 0.1")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
