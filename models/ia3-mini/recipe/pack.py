"""Packs what joint.py needs, for a machine with a GPU that has PyTorch but no network.

    pack.py --sets DIR --wiki FILE --teacher DIR --tokenizer DIR --model DIR OUT

writes OUT/first and OUT/second, each below 64 MiB, and the commands for that machine into both. There, with both folders side by side:

    bash first/prepare.sh WORK              unpacks, and lets the teacher read texts and phrases
    bash second/train.sh WORK MINUTES [OPTION OF joint.py...]       leaves WORK/out

Only `first` is needed by prepare.sh, so `second` can still be on its way. Of a set there are at most so many rows, and only those of ordinary
length; of Wikipedia so many characters; the teacher is in float16 and knows only the student's pieces.
"""

import argparse
import io
import json
import os
import random
import struct
import sys
import tarfile

import numpy as np

import t5

ROWS, LONGEST_ROW, JUDGING = 16_000, 2_600, 3_000
WIKI, PARAGRAPH = 26_000_000, (60, 700)
TEXTS = 300_000  # that the teacher reads, as far as there are so many
PREPARE = f"""#!/usr/bin/env bash
set -euo pipefail
from=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd) work=$1
mkdir -p "$work/matching" && cd "$work"
tar xf "$from/code.tar"
for part in teacher sets wiki; do python3 -m tarfile -e "$from/$part.tar.xz" . & done
wait
python3 code/matching.py sets wiki.txt matching tokenizer {TEXTS}
python3 code/nearest.py teacher tokenizer matching cuda
touch prepared
"""
TRAIN = """#!/usr/bin/env bash
set -euo pipefail
from=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) work=$1 minutes=$2
cd "$work"
for part in student more; do python3 -m tarfile -e "$from/$part.tar.xz" . & done
until [ -f prepared ]; do sleep 0.5; done
wait
for more in more/*.jsonl; do cat "$more" >>"sets/${more##*/}" && rm "$more"; done
exec python3 code/joint.py --sets sets --matching matching --wiki wiki.txt --teacher teacher --tokenizer tokenizer \\
    --model student --out out --device cuda --minutes "$minutes" "${@:3}"
"""


def halves(folder, r):
    """Two lists of (file, lines); together they have the rows of all sets that are taken."""
    with open(f"{folder}/sets.json", encoding="utf-8") as f:
        about = json.load(f)
    result = [], []
    for name, s in about.items():
        with open(f"{folder}/{name}.jsonl", encoding="utf-8") as f:
            lines = [line for line in f if len(line) < LONGEST_ROW]
        lines = r.sample(lines, min(len(lines), ROWS if s["use"] == "train" else JUDGING))
        for i in range(2):
            result[i].append((f"{name}.jsonl", lines[i::2]))
    return result


def paragraphs(path, r):
    with open(path, encoding="utf-8") as f:
        lines = [line for line in f if PARAGRAPH[0] <= len(line) <= PARAGRAPH[1]]
    r.shuffle(lines)
    ends = np.cumsum([len(line) for line in lines])
    return lines[:int(np.searchsorted(ends, WIKI, "right"))]


def narrow(folder, tokenizer):
    """The teacher's safetensors file in float16, with zeros for pieces that the student does not have."""
    weights = t5.read(f"{folder}/model.safetensors")
    with open(f"{folder}/vocab.txt", encoding="utf-8") as f:
        words = f.read().split("\n")
    used = sorted({*map(int, np.load(f"{tokenizer}/teacher-ids.npy")), words.index("[CLS]"), words.index("[SEP]")})
    table = weights["embeddings.word_embeddings.weight"].numpy()
    kept = np.zeros_like(table)
    kept[used] = table[used]
    weights = {n: t.numpy() for n, t in weights.items() if t.is_floating_point() and "pooler" not in n}
    weights["embeddings.word_embeddings.weight"] = kept
    header, data = {}, b""
    for name, t in weights.items():
        header[name] = {"dtype": "F16", "shape": list(t.shape), "data_offsets": [len(data), len(data) + 2 * t.size]}
        data += t.astype("<f2").tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def put(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("sets", "wiki", "teacher", "tokenizer", "model"):
        p.add_argument(f"--{name}", required=True)
    p.add_argument("out")
    o = p.parse_args()
    r, here = random.Random(0), os.path.dirname(os.path.abspath(__file__))
    for folder, name, text in (("first", "prepare.sh", PREPARE), ("second", "train.sh", TRAIN)):
        os.makedirs(f"{o.out}/{folder}", exist_ok=True)
        with open(f"{o.out}/{folder}/{name}", "w", encoding="utf-8") as f:
            f.write(text)
    with tarfile.open(f"{o.out}/first/code.tar", "w") as tar:
        for name in sorted(os.listdir(here)):
            if name.endswith(".py") and not name.startswith("test_"):
                tar.add(f"{here}/{name}", f"code/{name}")
        tar.add(o.tokenizer, "tokenizer")
    with tarfile.open(f"{o.out}/first/teacher.tar.xz", "w:xz") as tar:
        put(tar, "teacher/model.safetensors", narrow(o.teacher, o.tokenizer))
        for name in ("config.json", "vocab.txt"):
            tar.add(f"{o.teacher}/{name}", f"teacher/{name}")
    with tarfile.open(f"{o.out}/first/wiki.tar.xz", "w:xz") as tar:
        put(tar, "wiki.txt", "".join(paragraphs(o.wiki, r)).encode())
    first, second = halves(o.sets, r)
    for path, folder, files in ((f"{o.out}/first/sets.tar.xz", "sets", first), (f"{o.out}/second/more.tar.xz", "more", second)):
        with tarfile.open(path, "w:xz") as tar:
            for name, lines in files:
                put(tar, f"{folder}/{name}", "".join(lines).encode())
            if folder == "sets":
                tar.add(f"{o.sets}/sets.json", "sets/sets.json")
    with tarfile.open(f"{o.out}/second/student.tar.xz", "w:xz") as tar:
        tar.add(o.model, "student")
    for folder in ("first", "second"):
        size = sum(os.path.getsize(f"{o.out}/{folder}/{n}") for n in os.listdir(f"{o.out}/{folder}"))
        print(f"{folder}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
