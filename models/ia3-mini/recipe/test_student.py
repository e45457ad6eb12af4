"""Tests of the student, its conversion and its texts on tiny settings. Prints one line a test ("ok N - …")."""

import math
import os
import random
import tempfile
import unittest

try:
    import numpy as np
    import sentencepiece  # noqa: F401
    import torch
except ImportError as e:
    raise unittest.SkipTest(f"{e.name} is not installed")

import convert
import t5
import teacher
import texts

SHAPE = {"d_model": 24, "d_kv": 6, "num_heads": 4, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 1}


def student(seed=0, vocabulary=50):
    torch.manual_seed(seed)
    model = t5.new(vocabulary, **SHAPE)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape) * 0.3)
    return model


class Plain(teacher.Teacher):
    """A teacher with random weights whose layers add next to nothing to what they read."""

    def __init__(self, vocabulary, outputs):
        torch.manual_seed(1)
        self.heads, self.layers, self.d = 4, 2, 24
        w = {f"embeddings.{name}_embeddings.weight": torch.randn(n, 24)
             for name, n in (("word", vocabulary), ("position", 64), ("token_type", 2))}
        w["embeddings.position_embeddings.weight"] *= 0
        norms = ["embeddings.LayerNorm"]
        for i in range(2):
            p = f"encoder.layer.{i}"
            norms += [f"{p}.attention.output.LayerNorm", f"{p}.output.LayerNorm"]
            for name, rows, columns, size in (("attention.self.query", 24, 24, 1), ("attention.self.key", 24, 24, 1),
                                              ("attention.self.value", 24, 24, 1), ("attention.output.dense", 24, 24, outputs),
                                              ("intermediate.dense", 32, 24, 1), ("output.dense", 24, 32, outputs)):
                w[f"{p}.{name}.weight"] = torch.randn(rows, columns) / math.sqrt(columns) * size
                w[f"{p}.{name}.bias"] = torch.randn(rows) * 0.1 * size
        for name in norms:
            w[f"{name}.weight"], w[f"{name}.bias"] = torch.ones(24), torch.zeros(24)
        self.w = w


class Student(unittest.TestCase):
    def test_buckets(self):
        """The first eight distances have buckets of their own, later ones share them; the other direction is 16 higher."""
        at = torch.tensor([0, -1, -7, -8, -16, -127, -500, 1, 8, 500])
        self.assertEqual(t5.buckets(at, True).tolist(), [0, 1, 7, 8, 10, 15, 15, 17, 24, 31])
        self.assertEqual(t5.buckets(at, False).tolist(), [0, 1, 7, 8, 16, 31, 31, 0, 0, 0])

    def test_padding(self):
        """What stands behind the end of an input changes nothing."""
        model, ids = student(), torch.randint(3, 50, (1, 7))
        keep = torch.ones(1, 7, dtype=torch.bool)
        starts = torch.tensor([[0, 5, 6]])
        alone = model.logits(model.decode(starts, model.encode(ids, keep), keep))
        longer = torch.cat([ids, torch.randint(3, 50, (1, 4))], 1)
        padded = torch.cat([keep, torch.zeros(1, 4, dtype=torch.bool)], 1)
        with_more = model.logits(model.decode(starts, model.encode(longer, padded), padded))
        self.assertLess(float((alone - with_more).abs().max()), 1e-5 * float(alone.abs().max()))
        later = model.logits(model.decode(torch.tensor([[0, 5, 9]]), model.encode(ids, keep), keep))
        self.assertTrue(torch.equal(alone[:, :2], later[:, :2]), "a token sees one that comes later")
        self.assertFalse(torch.allclose(alone[:, 2], later[:, 2]))

    def test_files(self):
        """A checkpoint has the weights rounded to bfloat16, to nearest even."""
        model = student()
        with torch.no_grad():
            model.shared.weight[0, 0] = 1 + 1.5 / 128  # between 1 + 1/128 and 1 + 2/128: the even one is the latter
        with tempfile.TemporaryDirectory() as folder:
            t5.save(model, folder)
            again = t5.load(folder)
            self.assertEqual(sorted(os.listdir(folder)), ["config.json", "model.safetensors"])
        self.assertEqual(float(again.shared.weight[0, 0]), 1 + 2 / 128)
        for name, weight in model.state_dict().items():
            self.assertTrue(torch.equal(weight.bfloat16().float(), again.state_dict()[name]), name)


class Conversion(unittest.TestCase):
    @torch.no_grad()
    def cosine(self, outputs):
        """Mean cosine between the teacher's and the converted student's states of the last layer."""
        t, model = Plain(50, outputs), student()
        numbers = torch.randperm(50)
        ids, keep = torch.randint(0, 50, (8, 12)), torch.ones(8, 12, dtype=torch.bool)
        c = convert.Converter(t, model, numbers[ids], keep)
        c.run(numbers)
        states = []
        model.encode(ids, keep, states)
        weight, bias = c.heads()[-1]
        output = model.encoder.final_layer_norm(states[-1]) @ weight.T + bias
        return float(torch.cosine_similarity(output, t.states(numbers[ids], keep)[-1], dim=-1).mean())

    def test_stream(self):
        """Where layers add little, nothing but the rotation and the norms is left, and these are exact."""
        self.assertGreater(self.cosine(1e-3), 0.9999)

    def test_layers(self):
        """
        With what layers add the conversion is an approximation, and still near for a random teacher, also where layers add much
        more than there was: then biases and the growth of the stream count.
        """
        self.assertGreater(self.cosine(0.5), 0.99)
        self.assertGreater(self.cosine(4.0), 0.98)

    def test_rotation(self):
        q = convert.rotation(24)
        self.assertLess(float((q @ q.T - torch.eye(24)).abs().max()), 1e-5)
        self.assertLess(float((q[0] - 24 ** -0.5).abs().max()), 1e-5)


class Texts(unittest.TestCase):
    def test_batches(self):
        """Each text comes once, cut to the longest length with its end, in batches of a bounded number of tokens."""
        source = random.Random(0)
        rows = [[source.randrange(3, 50) for _ in range(source.randrange(1, 40))] + [1] for _ in range(200)]
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/t.npy", np.array(sum(rows, []), "<u2"))
            data = texts.Texts(f"{folder}/t.npy", 0, longest=20)
            self.assertEqual(len(data), 200)
            seen = []
            for ids, keep in data.batches(range(10, 200), 100, pool=64):
                self.assertLessEqual(ids.numel(), 100)
                seen += [row[k].tolist() for row, k in zip(ids, keep)]
            order = data.order
        expected = [rows[i] if len(rows[i]) <= 20 else rows[i][:19] + [1] for i in order[10:]]
        self.assertEqual(sorted(seen), sorted(expected))


if __name__ == "__main__":
    unittest.main()
