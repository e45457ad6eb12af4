"""A teacher's vectors of texts and phrases, and the phrases nearest to each text: what vectors.py does twice, on a GPU and for more texts.

    nearest.py TEACHER TOKENIZER MATCHING [DEVICE]     writes texts.npy, phrases.npy and nearest.npy into MATCHING

The teacher reads the student's pieces (teacher.Aligned), not its own.
"""

import os
import sys

import numpy as np
import sentencepiece
import torch

from teacher import Aligned
from texts import END, batch, lines_of

LONGEST, TOKENS, AT_ONCE, NEAREST = 128, 1 << 17, 4096, 50


@torch.no_grad()
def vectors(aligned, rows, device):
    """[rows, d] on the device, each of length one."""
    result = torch.zeros(len(rows), aligned.teacher.d, device=device)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        n = max(1, min(len(order), TOKENS // len(rows[order[-1]])))
        chosen, order = order[-n:], order[:-n]
        ids, keep = batch([rows[i] for i in chosen])
        result[chosen] = aligned.states(ids.to(device), keep.to(device))[1]
    return result


def main():
    teacher, tokenizer, folder, *device = sys.argv[1:]
    device = device[0] if device else "cpu"
    aligned = Aligned(teacher, tokenizer, device, torch.half if device == "cuda" else torch.float32)
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{tokenizer}/spiece.model")
    found = {}
    for name in ("texts", "phrases"):
        lines = list(lines_of(f"{folder}/{name}.jsonl"))
        rows = [ids[:LONGEST - 1] + [END] for ids in processor.encode(lines, num_threads=os.cpu_count())]
        found[name] = vectors(aligned, rows, device)
        np.save(f"{folder}/{name}.npy", found[name].cpu().numpy().astype(np.float16))
    near = [(x @ found["phrases"].T).topk(NEAREST).indices.to(torch.int32).cpu() for x in found["texts"].split(AT_ONCE)]
    np.save(f"{folder}/nearest.npy", torch.cat(near).numpy())
    print(f"{len(found['texts'])} texts, {len(found['phrases'])} phrases")


if __name__ == "__main__":
    main()
