"""Tests of the decoder as a bag of words, which need PyTorch and SentencePiece. Prints one line a test ("ok N - …")."""

import random
import unittest
from unittest import mock

try:
    import numpy as np
    import sentencepiece  # noqa: F401
    import torch
except ImportError as e:
    raise unittest.SkipTest(f"{e.name} is not installed")

import decoder
import ranking
import words
from test_student import student


class Processor:
    """Each letter is a piece."""

    def encode(self, texts):
        return [[3 + ord(c) - ord("a") for c in text] for text in texts]


class Matching:
    """Vectors of phrases are a linear map of their bags, those of texts of their phrase's."""

    temperature = 0.1

    def __init__(self, model):
        r = random.Random(0)
        spell = lambda n: "".join(r.choices("abcdefghij", k=n))
        self.phrases = sorted({spell(r.randint(2, 4)) for _ in range(400)})
        self.texts = [p + spell(1) for p in self.phrases[::2]]
        rows = torch.sparse.mm(decoder.bags(Processor(), self.phrases, 50), model.shared.weight)
        unit = torch.nn.functional.normalize(rows @ torch.randn(rows.shape[1], 16), dim=1).detach().numpy()
        self.phrase_vectors, self.text_vectors = unit, unit[::2]

    def cosines(self, texts):
        return self.text_vectors[texts] @ self.phrase_vectors.T

    def asked(self, r, texts, cosines):
        return [self.texts[i] for i in texts]


class Words(unittest.TestCase):
    def setUp(self):
        self.model = student()
        torch.manual_seed(0)

    @torch.no_grad()
    def test_bags(self):
        """They give the mean of a phrase's tokens, </s> included."""
        values = torch.arange(50.0)[:, None]
        got = torch.sparse.mm(decoder.bags(Processor(), ["aab", "c" * 40], 50), values)
        n = ranking.LONGEST_CHOICE
        torch.testing.assert_close(got, torch.tensor([[(3 + 3 + 4 + 1) / 4], [(5 * (n - 1) + 1) / n]]))

    def test_ridge(self):
        """Without noise it finds the map, and its gradient is zero where it ends."""
        x, m = torch.randn(300, 5, dtype=torch.double), torch.randn(5, 3, dtype=torch.double)
        with mock.patch.object(decoder, "RIDGE", 0.0):
            torch.testing.assert_close(decoder.ridge(x.float(), (x @ m).float()), m.float(), rtol=1e-3, atol=1e-3)
        y = torch.randn(300, 3)
        x = x.float()
        got = decoder.ridge(x, y).requires_grad_()
        ((x @ got - y).square().sum() + decoder.RIDGE * x.square().sum() / 5 * got.square().sum()).backward()
        torch.testing.assert_close(got.grad, torch.zeros_like(got), rtol=0, atol=1e-2)

    def test_divergences(self):
        """Nothing from itself whatever is added to a row; for one group, what all phrases give."""
        s, t = torch.randn(4, 8), torch.randn(4, 8)
        for found in decoder.divergences(s + torch.arange(4.0)[:, None], s, 4):
            self.assertAlmostEqual(float(found), 0, places=5)
        of_all, of_one_group = decoder.divergences(s, t, 8)
        p, q = t.softmax(1), s.softmax(1)
        self.assertAlmostEqual(float(of_all), float((p * (p / q).log()).sum(1).mean()), places=5)
        self.assertAlmostEqual(float(of_one_group), float(of_all), places=5)
        self.assertGreater(float(decoder.divergences(s, t, 2)[1]), 0)

    @torch.no_grad()
    def test_fit(self):
        """The decoder's first position then ranks phrases as the teacher does, much better than all alike."""
        m = Matching(self.model)
        decoder.fit(self.model, Processor(), m, random.Random(0))
        phrases = words.Phrases(m, Processor(), 50)
        with mock.patch.object(words, "OTHER", 0.0):
            b, = phrases.batches(random.Random(0), range(len(m.texts)), 256, 10**6)
            found = float(phrases.losses(self.model, *b)[0])
        targets = torch.from_numpy(m.text_vectors @ m.phrase_vectors.T) / m.temperature
        alike = float(decoder.divergences(torch.zeros_like(targets), targets)[0])
        self.assertLess(found, 0.65 * alike, (found, alike))

    @torch.no_grad()
    def test_labelled(self):
        """For choices of one token there is but one position: what ranking gives."""
        items = [ranking.Item([5, 6, 7, 1], [[8], [9], [2]], 1), ranking.Item([12, 1], [[13], [14], [2]], 0)]
        b = ranking.collate(items)
        expected = ranking.losses(self.model, b)
        with mock.patch.object(words, "OTHER", 0.0):
            got = words.labelled_losses(self.model, b)
        for a, e in zip(got, (expected.lm, expected.ln, expected.accuracy)):
            self.assertAlmostEqual(float(a), float(e), places=4)

    @torch.no_grad()
    def test_another_token_is_read(self):
        ids, keep = torch.tensor([[5, 1]] * 40), torch.ones(40, 2, dtype=torch.bool)
        with mock.patch.object(words, "OTHER", 0.5):
            rows = words.log_p(self.model, ids, keep)
        self.assertGreater(len(np.unique(rows[:, 9].numpy().round(4))), 5)
        with mock.patch.object(words, "OTHER", 0.0):
            rows = words.log_p(self.model, ids, keep)
        self.assertEqual(len(np.unique(rows[:, 9].numpy().round(4))), 1)

    def test_batches(self):
        """They have every text but those that are held out, once a round, beside others of similar length."""
        m = Matching(self.model)
        m.texts = ["a" * (1 + i % 90) for i in range(1000)]
        m.text_vectors = np.zeros((1000, 16), np.float32)
        phrases = words.Phrases(m, Processor(), 50)
        stream, seen = phrases.learned(random.Random(0), 256, 1000), []
        while len(seen) < 990:
            texts, ids, keep = next(stream)
            seen += texts
            self.assertLessEqual(ids.numel(), 1000)
            self.assertEqual([1 + len(m.texts[i]) for i in texts], keep.sum(1).tolist())
            self.assertLess(int(keep.sum(1).max() - keep.sum(1).min()), 30)
        self.assertEqual(sorted(seen), [i for i in range(1000) if i % words.HELD_OUT])


if __name__ == "__main__":
    unittest.main()
