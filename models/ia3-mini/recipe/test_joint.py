"""Tests of training on everything at once, which need PyTorch and SentencePiece. Prints one line a test ("ok N - …")."""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import numpy as np
    import sentencepiece  # noqa: F401
    import torch
except ImportError as e:
    raise unittest.SkipTest(f"{e.name} is not installed")

import feed
import nearest
import ranking
import t5
import teacher
import tokenizer
from test_student import SHAPE, Plain, student

WORDS = ["good", "bad", "card", "train", "price", "hotel", "music", "rain"]


class Feeds(unittest.TestCase):
    def test_numbers_come_back(self):
        """What goes from process to process is small, and the same at the other end, numbers beyond 16 bits too."""
        b = ranking.collate([ranking.Item([5, 6, 1], [[8, 1], [9, 10, 1]], 1, [0.25, 0.75])], 4)
        sent = feed.small((b, torch.tensor([70_000, 3])))
        self.assertEqual({x.dtype.name for x in sent[0]}, {"int16", "bool", "float32"})
        back, numbers = feed.large(feed.pinned(sent, False), torch.device("cpu"))
        for a, c in zip(b, back):
            self.assertTrue(a.dtype == c.dtype and torch.equal(a, c))
        self.assertEqual(numbers.tolist(), [70_000, 3])
        self.assertEqual((b.ids.shape[1], b.starts.shape[1]), (4, 8))

    def test_choices_that_are_too_many_are_left_out(self):
        choices = [[i] * 20 for i in range(150)]
        item = feed.shortened(ranking.Item([1], choices, 149), random.Random(0))
        self.assertEqual(item.choices[item.right], choices[149])
        self.assertEqual(len(item.choices), feed.MOST // 20)
        self.assertEqual(sorted(map(tuple, item.choices)), list(map(tuple, item.choices)))  # their order stays
        few = ranking.Item([1], choices[:3], 0)
        self.assertIs(feed.shortened(few, random.Random(0)), few)


class Devices(unittest.TestCase):
    @torch.no_grad()
    def test_a_choice_knows_its_own_positions(self):
        """Positions are those in a choice, wherever in the row it stands."""
        model = student()
        memory, keep = torch.randn(1, 5, model.config["d_model"]), torch.ones(1, 5, dtype=torch.bool)
        ask = lambda starts, choice, place: model.decode_choices(*(torch.tensor([x]) for x in (starts, choice, place)), memory, keep)[0]
        two = ask([0, 7, 8, 0, 9, 5], [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
        torch.testing.assert_close(two[3:], model.decode(torch.tensor([[0, 9, 5]]), memory, keep)[0])
        torch.testing.assert_close(two[:3], model.decode(torch.tensor([[0, 7, 8]]), memory, keep)[0])

    def test_a_table_as_a_product(self):
        table = torch.nn.Embedding(8, 3)
        numbers = torch.randint(8, (4, 5))
        torch.testing.assert_close(t5.looked_up(table, numbers), table(numbers))


class Whole(unittest.TestCase):
    """The commands, on a task that words decide."""

    def folder(self, path):
        r = random.Random(0)
        rows = []
        for i in range(400):
            word = r.choice(WORDS[:2])
            rows.append({"fields": {"text": " ".join([word, *r.sample(WORDS[2:], 3), str(i)])}, "label": word, "choices": None, "split": ""})
        about = {n: {"kind": "topic", "use": use, "rows": 400, "labels": WORDS[:2]} for n, use in (("one", "train"), ("judge", "dev"))}
        os.makedirs(f"{path}/sets")
        with open(f"{path}/sets/sets.json", "w") as f:
            json.dump(about, f)
        for name in about:
            self.lines(f"{path}/sets/{name}.jsonl", rows)
        with open(f"{path}/wiki.txt", "w") as f:
            f.writelines(" ".join(r.choices(WORDS, k=8)) + "\n" for _ in range(300))
        os.makedirs(f"{path}/matching")
        self.lines(f"{path}/matching/phrases.jsonl", [f"{a} {b}" for a in WORDS for b in WORDS])
        self.lines(f"{path}/matching/texts.jsonl", [" ".join(r.choices(WORDS, k=6)) for _ in range(80)])
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(33, 127)), *WORDS]
        words = [w for w in words if not w.isupper() or len(w) > 1]
        model, ids = tokenizer.make(words, [" ".join(r.choices(WORDS, k=5)) for _ in range(3000)], pieces=400)
        os.makedirs(f"{path}/tok")
        with open(f"{path}/tok/spiece.model", "wb") as f:
            f.write(model.SerializeToString())
        np.save(f"{path}/tok/teacher-ids.npy", ids)
        os.makedirs(f"{path}/teacher")
        with open(f"{path}/teacher/vocab.txt", "w") as f:
            f.write("\n".join(words))
        with open(f"{path}/teacher/config.json", "w") as f:
            json.dump({"model_type": "bert", "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 24}, f)
        weights = Plain(len(words), 1).w
        weights["embeddings.position_embeddings.weight"] = torch.zeros(200, 24)
        header, at = {}, 0
        for name, t in weights.items():
            header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + 4 * t.numel()]}
            at += 4 * t.numel()
        with open(f"{path}/teacher/model.safetensors", "wb") as f:
            text = json.dumps(header).encode()
            f.write(len(text).to_bytes(8, "little") + text + b"".join(t.numpy().tobytes() for t in weights.values()))
        torch.manual_seed(0)
        t5.save(t5.new(len(ids), **SHAPE), f"{path}/student")

    @staticmethod
    def lines(path, values):
        with open(path, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(v) + "\n" for v in values)

    def run_command(self, *command):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return done.stdout

    def test_from_data_to_a_checkpoint(self):
        with tempfile.TemporaryDirectory() as path:
            self.folder(path)
            self.run_command("nearest.py", f"{path}/teacher", f"{path}/tok", f"{path}/matching")
            x, y, near = (np.load(f"{path}/matching/{n}.npy") for n in ("texts", "phrases", "nearest"))
            self.assertEqual(near.shape, (80, nearest.NEAREST))
            cosines = x.astype(np.float32) @ y.astype(np.float32).T
            others = np.take_along_axis(cosines, np.argsort(cosines)[:, :len(y[0:]) - nearest.NEAREST], 1)
            self.assertTrue((np.take_along_axis(cosines, near, 1).min(1) >= others.max(1) - 2e-3).all())
            options = [o for n in ("sets", "matching", "teacher") for o in (f"--{n}", f"{path}/{n}")]
            command = ["joint.py", *options, "--wiki", f"{path}/wiki.txt", "--tokenizer", f"{path}/tok", "--model", f"{path}/student",
                                    "--out", f"{path}/out", "--minutes", "0.15", "--tokens", "1500", "--processes", "1", "--device", "cpu", "--every",
                                    "0.02", "--rate", "5e-3", "--encoder-rate", "5e-3", "--embedding-rate", "1e-2", "--warmup", "5"]
            told = self.run_command(*command)
            for name, most in (("lm", 0.95), ("states", 0.8)):
                values = [float(x) for x in re.findall(rf"\b{name} ([\d.]+)", told)]
                self.assertLess(values[-1], most * values[0], told)
            before, after = (t5.load(f"{path}/{n}").state_dict() for n in ("student", "out"))
            self.assertFalse(torch.equal(before["shared.weight"], after["shared.weight"]))
            table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            self.assertTrue(torch.equal(before[table], after[table]))  # fused attention has no gradient for it
            self.assertEqual(len(torch.load(f"{path}/out/heads.pt")), 2)
            told = self.run_command("joint.py", *command[1:-2], "--profile", "2")
            self.assertRegex(told, r"\d+ ms a step, of which \d+ ms for a batch\n[^!]*aten::mm")

    def test_packed(self):
        """What is packed is enough for both commands on another machine (here with its CPU, and without the training)."""
        with tempfile.TemporaryDirectory() as path:
            self.folder(path)
            self.run_command("pack.py", *[o for n in ("sets", "teacher") for o in (f"--{n}", f"{path}/{n}")], "--wiki", f"{path}/wiki.txt",
                             "--tokenizer", f"{path}/tok", "--model", f"{path}/student", f"{path}/packed")
            os.makedirs(f"{path}/bin")
            with open(f"{path}/bin/python3", "w") as f:  # instead of cuda, the CPU; instead of joint.py, its arguments
                f.write(f'#!/bin/sh\ncase $* in *joint.py*) echo "$@" >joint; exit;; esac\n[ "$5" != cuda ] || set -- "$1" "$2" "$3" "$4" cpu\n'
                        f'exec {sys.executable} "$@"\n')
            os.chmod(f"{path}/bin/python3", 0o755)
            for command in ("first/prepare.sh", "second/train.sh"):
                done = subprocess.run(["bash", f"{path}/packed/{command}", f"{path}/work", "5", "--rate", "1"], capture_output=True, text=True,
                                      env={**os.environ, "PATH": f"{path}/bin:{os.environ['PATH']}"}, timeout=240)
                self.assertEqual(done.returncode, 0, done.stderr)
            read = lambda name: Path(path, name).read_text(encoding="utf-8").splitlines()
            self.assertEqual(sorted(read("work/sets/one.jsonl")), sorted(read("sets/one.jsonl")))
            self.assertEqual(sorted(read("work/wiki.txt")), sorted(line for line in read("wiki.txt") if len(line) >= 59))
            with open(f"{path}/work/joint") as f:
                self.assertIn("--minutes 5 --rate 1", f.read())
            kept, whole = (t5.read(f"{path}/{n}/model.safetensors") for n in ("work/teacher", "teacher"))
            torch.testing.assert_close(kept["encoder.layer.0.output.dense.weight"], whole["encoder.layer.0.output.dense.weight"], rtol=1e-3, atol=1e-3)
            self.assertEqual(np.load(f"{path}/work/matching/nearest.npy").shape[1], nearest.NEAREST)

    @torch.no_grad()
    def test_an_aligned_teacher(self):
        """Its states are those of the teacher for [CLS] and its own numbers of the pieces, padded or not."""
        with tempfile.TemporaryDirectory() as path:
            self.folder(path)
            aligned = teacher.Aligned(f"{path}/teacher", f"{path}/tok")
            ids = torch.tensor([[9, 8, 1, 0, 0], [5, 6, 7, 8, 1]])
            keep = ids > 0
            states, vectors = aligned.states(ids, keep)
            own = torch.tensor([[aligned.first, *aligned.numbers[ids[0, :3]].tolist()]])
            expected = aligned.teacher.states(own, torch.ones(1, 4, dtype=torch.bool))[-1]
            torch.testing.assert_close(states[-1][0, :3], expected[0, 1:])
            torch.testing.assert_close(vectors[0], torch.nn.functional.normalize(expected[0].mean(0), dim=0))


if __name__ == "__main__":
    unittest.main()
