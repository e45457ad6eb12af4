#!/usr/bin/env python3
"""Writes generation.tsv, the greedy continuations that test/engine/test_generate.c expects of transformers + peft.

    venv/bin/python generate_text.py        (after generate.py: it reads the inputs from expected.safetensors)

One line per case: configuration, number of the input, the token ids (without </s>) of at most TOKENS steps, a tab
between them. Greedy decoding ends a line early where the runner-up comes within MARGIN of the winner: there rounding
could decide.
"""

import os
import tempfile

import torch
from safetensors.numpy import load_file

import configs
import oracle
from generate import make_weights

TOKENS, MARGIN = 12, 0.02
CASES = {"t5-relu-tied": 3, "t5-gated-untied": 3, "umt5-bias-per-layer": 3, "t5-few-buckets": 1, "backbone": 3}


def greedy(model, ids, start, eos):
    encoded, tokens = oracle.encode(model, ids), []
    while len(tokens) < TOKENS:
        decoder = torch.tensor([[start] + tokens])
        logits = oracle.bare(model)(encoder_outputs=(encoded,), decoder_input_ids=decoder).logits[0, -1]
        best = torch.topk(logits, 2)
        if best.values[0] - best.values[1] < MARGIN:
            break
        if best.indices[0] == eos:
            return tokens + [eos]
        tokens.append(int(best.indices[0]))
    return tokens


def main():
    torch.set_num_threads(1)
    root = os.path.dirname(os.path.abspath(__file__))
    with open(f"{root}/generation.tsv", "w") as out:
        for golden in configs.CONFIGS + [configs.MINI]:
            if golden.name not in CASES:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                weights = make_weights(golden, scratch)
            vectors = load_file(f"{root}/{golden.name}/adapter/adapter_model.safetensors")
            expected = load_file(f"{root}/{golden.name}/expected.safetensors")
            model = oracle.build(golden, weights, vectors)
            for i in range(CASES[golden.name]):
                ids = [int(x) for x in expected[f"input.{i}.ids"]]
                with torch.no_grad():
                    tokens = greedy(model, ids, 0, 1)
                out.write(f"{golden.name}\t{i}\t{' '.join(map(str, tokens))}\n")


if __name__ == "__main__":
    main()
