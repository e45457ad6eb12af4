"""Tests of ranking and of the tokenizer, which need PyTorch and SentencePiece. Prints one line a test ("ok N - …")."""

import json
import math
import random
import tempfile
import unittest

try:
    import numpy as np
    import sentencepiece
    import torch
except ImportError as e:
    raise unittest.SkipTest(f"{e.name} is not installed")

import matching
import ranking
import rows as rows_of
import steer
import tokenizer
from test_student import student

ITEMS = [ranking.Item([5, 6, 7, 1], [[8, 1], [9, 10, 11, 1]], 1), ranking.Item([12, 1], [[13, 14, 1], [15, 1], [16, 1]], 0)]


class Ranking(unittest.TestCase):
    def expected(self, model, item):
        """Mean log p of each choice, and the log p of its tokens, one choice at a time."""
        ids, keep = torch.tensor([item.ids]), torch.ones(1, len(item.ids), dtype=torch.bool)
        memory, means, tokens = model.encode(ids, keep), [], []
        for c in item.choices:
            logits = model.logits(model.decode(torch.tensor([[0] + c[:-1]]), memory, keep))[0]
            tokens.append(logits.log_softmax(-1)[range(len(c)), c])
            means.append(float(tokens[-1].mean()))
        return means, tokens

    @torch.no_grad()
    def test_scores(self):
        """Choices and inputs together score as each alone."""
        model, b = student(), ranking.collate(ITEMS)
        got = ranking.scores(ranking.log_probabilities(model, b), b)
        self.assertEqual(float(got[0, 2]), -math.inf)
        for item, row in zip(ITEMS, got):
            for a, b in zip(self.expected(model, item)[0], row):
                self.assertAlmostEqual(a, float(b), places=4)

    @torch.no_grad()
    def test_losses(self):
        model = student()
        lm = ln = 0.0
        wrong = []
        for item in ITEMS:
            means, tokens = self.expected(model, item)
            lm -= means[item.right] / 2
            ln -= float(torch.tensor(means).log_softmax(0)[item.right]) / 2
            wrong += [1 - math.exp(x) for i, t in enumerate(tokens) if i != item.right for x in t.tolist()]
        got = ranking.losses(model, ranking.collate(ITEMS))
        self.assertAlmostEqual(float(got.lm), lm, places=4)
        self.assertAlmostEqual(float(got.ln), ln, places=4)
        self.assertAlmostEqual(float(got.ul), -sum(map(math.log, wrong)) / len(wrong), places=5)

    @torch.no_grad()
    def test_sampled_pieces(self):
        """A sample estimates 1 / p of a target without bias, for all targets of a draw; with room for all pieces it is exact."""
        torch.manual_seed(0)
        model, targets = student(), torch.tensor([8, 9, 8, 1])
        states = 5 * torch.randn(4, model.config["d_model"])
        exact = ranking.negative_log_p(model, states, targets, 0)
        drawn = torch.stack([ranking.negative_log_p(model, states, targets, 10) for _ in range(2000)])
        self.assertGreater(float(drawn.std(0).min()), 0.01)
        torch.testing.assert_close(drawn.exp().mean(0), exact.exp(), rtol=0.03, atol=0)
        everything = ranking.negative_log_p(model, states, targets, model.shared.num_embeddings)
        torch.testing.assert_close(everything, exact)

    def test_batches(self):
        """Every item comes once; what is padded together costs no more than asked, unless it is one item."""
        items = [ranking.Item([3] * n, [[4] * m] * c, 0) for n in (1, 9, 40) for m in (1, 5) for c in (2, 3, 30)] * 3
        groups = list(ranking.batches(items, 100))
        self.assertEqual(sorted(map(id, sum(groups, []))), sorted(map(id, items)))
        for g in groups:
            self.assertTrue(len(g) == 1 or len(g) * max(map(ranking.cost, g)) <= 100, g)

    def test_the_middle_of_a_long_input_is_left_out(self):
        class Processor:
            def encode(self, texts):
                return [[ord(c) for c in t] for t in texts]

        class Prompt:
            text, choices, right = "abcdefgh", ["x", "y" * 40], 1

        item, = ranking.items_of(Processor(), [Prompt], 6)
        self.assertEqual(item.ids, [*map(ord, "abcgh"), 1])
        self.assertEqual(item.choices, [[ord("x"), 1], [ord("y")] * (ranking.LONGEST_CHOICE - 1) + [1]])


class Matching(unittest.TestCase):
    @torch.no_grad()
    def test_loss(self):
        """It is nothing for a model's own shares, and otherwise the divergence from them."""
        model, b = student(), ranking.collate(ITEMS)
        own = ranking.scores(ranking.log_probabilities(model, b), b).softmax(1)
        give = lambda rows: ranking.collate([i._replace(shares=np.array(s)) for i, s in zip(ITEMS, rows)])
        same = give([own[0, :2].tolist(), own[1].tolist()])
        self.assertAlmostEqual(float(ranking.matching_loss(model, same)), 0, places=5)
        one = give([[1, 0], [0, 0, 1]])
        self.assertAlmostEqual(float(ranking.matching_loss(model, one)), -float(own[0, 0].log() + own[1, 2].log()) / 2, places=4)

    def test_words_and_groups(self):
        """Whole words of the vocabulary only; groups are words in a row of the texts."""
        class Processor:
            pieces = ["</s>", "▁", "▁the", "▁it", "ing", "▁state", "▁a1b"]
            id_to_piece, get_piece_size = pieces.__getitem__, lambda self: len(self.pieces)

        self.assertEqual(matching.words_of(Processor()), ["the", "state"])
        texts = ["One two-three, it's four 5 six", "word"]
        groups = matching.word_groups(texts, random.Random(0), 200)
        self.assertIn("two-three it's four", groups)
        flat = "one two-three it's four six"
        self.assertTrue(all(g in flat and 2 <= len(g.split()) <= 5 for g in groups), groups)
        self.assertEqual(len(groups), 4 + 3 + 2 + 1)

    def test_prompts(self):
        """Shares are the softmax of the cosines of text and phrases; what fits the text is among them."""
        rng = np.random.default_rng(0)
        unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
        texts, phrases = [f"text {i}" for i in range(5)], [f"phrase {i}" for i in range(200)]
        x, y = unit(rng.normal(size=(5, 16))), unit(rng.normal(size=(200, 16)))
        with tempfile.TemporaryDirectory() as folder:
            for name, lines, vectors in (("texts", texts, x), ("phrases", phrases, y)):
                with open(f"{folder}/{name}.jsonl", "w", encoding="utf-8") as f:
                    f.writelines(json.dumps(line) + "\n" for line in lines)
                np.save(f"{folder}/{name}.npy", vectors)
            m = matching.Matching(folder, 0.1)
        r = random.Random(0)
        given = [m.prompt(r) for _ in range(100)]
        for p, shares in given:
            at = next(i for i, t in enumerate(texts) if t in p.text)
            c = np.array([y[phrases.index(q)].astype(float) @ x[at].astype(float) for q in p.choices]) / 0.1
            np.testing.assert_allclose(shares, np.exp(c) / np.exp(c).sum(), rtol=2e-3)
            self.assertEqual(p.right, int(c.argmax()))
            self.assertEqual(len(set(p.choices)), len(p.choices))
            near = np.argsort(-(y.astype(np.float32) @ x[at].astype(np.float32)))[:50]
            self.assertTrue({phrases[i] for i in near} & set(p.choices))
        sizes = [len(p.choices) for p, _ in given]
        self.assertTrue(min(sizes) == 2 and max(sizes) > 20 and sorted(sizes)[50] < 15, sizes)


class Steered(unittest.TestCase):
    @torch.no_grad()
    def test_ones_change_nothing_and_others_do(self):
        """Keys, values and inner activations are scaled where (IA)³ scales them: the same as scaling the rows of their matrices."""
        model, b = student(), ranking.collate(ITEMS)
        plain = ranking.log_probabilities(model, b)
        vectors = steer.Vectors(model)
        self.assertEqual(len(vectors.places), 2 * 2 + 2 + 2 * 2 + 1)  # two encoder layers, one of the decoder, which attends twice
        with vectors:
            self.assertTrue(torch.equal(ranking.log_probabilities(model, b), plain))
        for i, (module, name, n) in enumerate(vectors.places):
            vectors.values[i] = torch.linspace(0.5, 1.5, n)
            with vectors:
                scaled = ranking.log_probabilities(model, b)
            vectors.values[i] = torch.ones(n)
            self.assertFalse(torch.allclose(scaled, plain), name)
            weight = {"scale_k": "k", "scale_v": "v", "scale": "wo"}[name]
            linear = getattr(module, weight)
            factors = torch.linspace(0.5, 1.5, n)
            kept = linear.weight.clone()
            linear.weight.mul_(factors if weight == "wo" else factors[:, None])
            torch.testing.assert_close(ranking.log_probabilities(model, b), scaled, rtol=1e-4, atol=1e-4)
            linear.weight.copy_(kept)

    def test_adapting_lowers_the_loss_and_leaves_the_weights(self):
        model, b = student(), ranking.collate(ITEMS)
        before = {n: p.clone() for n, p in model.state_dict().items()}
        vectors = steer.adapt(model, [b] * 20, 0.03)
        with torch.no_grad():
            first = float(steer.total(ranking.losses(model, b)))
            with vectors:
                last = float(steer.total(ranking.losses(model, b)))
        self.assertLess(last, 0.97 * first)
        self.assertTrue(all(torch.equal(p, before[n]) for n, p in model.state_dict().items()))
        self.assertTrue(all(p.grad is None for p in model.parameters()))

    def test_episodes(self):
        """Enough rows to adapt with, none of which is learned from; both have the same labels in the same words."""
        class Sets:
            rows = {"one": [rows_of.text_row(f"text {i}", "ab"[i % 2]) for i in range(40)],
                    "few": [rows_of.text_row(f"text {i}", "ab"[i % 2]) for i in range(20)]}
            about = {name: {"kind": "topic", "labels": ["a", "b"]} for name in rows}

        class Processor:
            def encode(self, texts):
                return [[ord(c) for c in t] for t in texts]

        episodes, r = steer.Episodes(Sets, Processor(), 200), random.Random(0)
        self.assertEqual(episodes.names, ["one"])
        for _ in range(50):
            _, labels, shots, queries = episodes.rows(r)
            self.assertGreaterEqual(len(shots), steer.SHOTS[0])
            self.assertEqual(len(queries), steer.QUERIES)
            self.assertFalse({s.fields["text"] for s in shots} & {q.fields["text"] for q in queries})
            inner, outer = episodes.draw(r, 3)
            self.assertEqual(len(inner), 3)
            self.assertEqual(sum(len(b.ids) for b in outer), steer.QUERIES)
            said = {tuple(b.targets[b.row == i].tolist()) for b in inner + outer for i in range(len(b.ids))}
            self.assertEqual(len(said), 1)


class Tokenizer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(33, 127)), "card", "expired", "##ing", "pay", "my", "##my"]
        cls.words = [w for w in words if not w.isupper() or len(w) > 1]
        lines = [f"my card expired paying {i} < > a\nb" for i in range(3000)]
        cls.model, cls.ids = tokenizer.make(cls.words, lines, pieces=500)
        cls.processor = sentencepiece.SentencePieceProcessor(model_proto=cls.model.SerializeToString())

    def pieces(self, text):
        return self.processor.encode(text, out_type=str)

    def test_a_line_break_stays_and_words_after_it_are_whole(self):
        self.assertEqual(self.pieces("My card\nmy card\n\nexpired"), ["▁my", "▁card", "▁\n", "▁my", "▁card", "▁\n", "▁\n", "▁expired"])
        self.assertEqual(self.pieces("a \t\r b"), ["▁a", "▁b"])

    def test_numbers_of_the_teacher(self):
        number = lambda piece: self.words[self.ids[self.processor.piece_to_id(piece)]]
        self.assertEqual([number(p) for p in ("▁card", "ing", "my", "▁my", "<", "▁<", "</s>", "▁\n")],
                         ["card", "##ing", "##my", "my", "<", "<", "[SEP]", "."])

    def test_what_no_piece_covers_is_spelled_in_bytes(self):
        self.assertEqual(self.pieces("😀")[-4:], ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"])
        self.assertNotIn(tokenizer.UNKNOWN, self.processor.encode("日本 😀 ~ ^ { }"))

    def test_rules(self):
        """The rules that were read are those of the library, but for the line break."""
        rules = tokenizer.rules_of(self.model.normalizer_spec.precompiled_charsmap)
        self.assertEqual((rules["A"], rules["ﬁ"], rules["\t"], rules["\n"]), ("a", "fi", " ", " \n "))
        plain = sentencepiece.SentencePieceNormalizer(rule_name=tokenizer.RULES)
        ours = sentencepiece.SentencePieceProcessor(model_proto=self.model.SerializeToString())
        for c in list(rules)[::997] + ["e\u0301", "Ａ", "ß", "İ"]:
            if "\n" not in c:
                self.assertEqual(ours.normalize(f"x{c}x"), plain.normalize(f"x{c}x"), hex(ord(c[0])))


if __name__ == "__main__":
    unittest.main()
