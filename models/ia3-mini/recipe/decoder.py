"""Gives the student a decoder that compares the words of an answer with the meaning of the input, before any training.

    decoder.py MODEL TOKENIZER MATCHING    MATCHING: texts, phrases and their vectors, as matching.py and vectors.py write them

In such a decoder every position has the same state, a map of the mean of the encoder's output, and the score of an answer is the
product of that state with the mean of its tokens' rows of the embedding: a bag of words. The sum over the vocabulary is the same for all
answers. The map is two ridge regressions: from the encoder's mean to the teacher's vector of a text, and from mean rows to the
teacher's vectors of phrases; the products of both are estimates of the teacher's cosines. The cross-attention of the last
block computes it: its queries are small, so that all tokens of the input have about the same weight, and what it writes is larger than what
else is in the stream. The weight of the last norm is the inverse temperature. The other matrices begin small.
"""

import random
import sys

import sentencepiece
import torch

import ranking
import t5
from matching import Matching
from texts import END

RIDGE = 0.02  # of the mean square of what the regression reads
SMALL = 0.01
GAIN = 5.0  # size of what cross-attention writes, in units of a token's embedding
TEXTS = 2000
SCALES = (1, 1.5, 2, 3, 4, 6)


def bags(processor, phrases, size):
    """The share of each piece in each phrase with its </s>: a sparse matrix [phrases, size]."""
    ids = [ranking.choice_of(p) for p in processor.encode(phrases)]
    at = torch.tensor([(i, t) for i, p in enumerate(ids) for t in p]).T
    return torch.sparse_coo_tensor(at, torch.tensor([1 / len(p) for p in ids for _ in p]), (len(ids), size), check_invariants=True).coalesce()


def means(model, batches):
    """The mean of the encoder's output over the tokens of each text: [texts, d_model]."""
    out = []
    for ids, keep in batches:
        out.append((model.encode(ids, keep) * keep[..., None]).sum(1) / keep.sum(1, keepdim=True))
    return torch.cat(out)


def ridge(x, y):
    """The matrix m with the least ‖x·m - y‖² + RIDGE · ‖x‖² / columns · ‖m‖²: [columns of x, columns of y]."""
    square = x.T @ x
    return torch.linalg.solve(square + RIDGE * square.diagonal().mean() * torch.eye(len(square)), x.T @ y)


def divergences(scores, targets, group=32):
    """
    Of the softmax of targets from that of scores, [texts, phrases] each: (among all phrases, among the phrases of groups formed by
    chance), means over texts and groups.
    """
    def of(s, t):
        t = t.log_softmax(-1)
        return (t.exp() * (t - s.log_softmax(-1))).sum(-1).mean()

    chosen = torch.randperm(scores.shape[1])[:scores.shape[1] // group * group]
    groups = [x[:, chosen].unflatten(1, (-1, group)) for x in (scores, targets)]
    return of(scores, targets), of(*groups)


@torch.no_grad()
def initialise(model, m, rows, targets):
    """m: the map, [d_model of the encoder, d_model of the embedding]; rows: of phrases, [phrases, d_model]; targets: for some texts,
    as (means, [texts, phrases]). Returns the divergences with the best scale."""
    generator = torch.Generator().manual_seed(0)
    for p in model.decoder.parameters():
        if p.dim() == 2:
            p.copy_(torch.randn(p.shape, generator=generator) * SMALL)
        else:
            p.fill_(1)
    model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    x, targets = targets
    written = x @ m
    cross = model.decoder.block[-1].layer[1].EncDecAttention
    cross.v.weight.copy_(torch.eye(len(m)))
    cross.o.weight.copy_(m.T * GAIN * model.shared.weight.norm(dim=1).mean() / written.norm(dim=1).mean())
    scores = torch.nn.functional.normalize(written, dim=1) @ rows.T
    found = [(*divergences(s * scores, targets), s) for s in SCALES]
    best = min(found, key=lambda f: f[0] + f[1])
    model.decoder.final_layer_norm.weight.fill_(best[2])
    return best[:2]


@torch.no_grad()
def fit(model, processor, matching, r, count=TEXTS):
    """Returns the divergences from the teacher's shares, for the texts that the map was fitted to."""
    texts = r.sample(range(len(matching.texts)), min(count, len(matching.texts)))
    cosines = matching.cosines(texts)
    asked = matching.asked(r, texts, cosines)
    x = means(model, (ranking.inputs(processor, asked[at:at + 64]) for at in range(0, len(texts), 64)))
    vectors, phrases = torch.from_numpy(matching.text_vectors[texts]), torch.from_numpy(matching.phrase_vectors)
    rows = torch.sparse.mm(bags(processor, matching.phrases, model.shared.num_embeddings), model.shared.weight)
    m = ridge(x, vectors) @ ridge(rows, phrases).T
    return initialise(model, m, rows, (x, torch.from_numpy(cosines / matching.temperature)))


def main():
    folder, tokenizer, matching = sys.argv[1:]
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{tokenizer}/spiece.model")
    model = t5.load(folder)
    divergence = fit(model, processor, Matching(matching), random.Random(0))
    t5.save(model, folder)
    print("divergence from the teacher: %.3f among all phrases, %.3f among 32 by chance" % divergence)


if __name__ == "__main__":
    main()
