"""Makes the tokenizer: a SentencePiece model whose pieces are WordPiece's, so that the teacher can read what the student reads.

    tokenizer.py VOCAB.TXT OUT TEXT...     writes OUT/spiece.model and OUT/teacher-ids.npy

VOCAB.TXT is the teacher's list of pieces, TEXT are files as texts.py reads them. "▁word" stands for WordPiece's "word" at the
beginning of a word, and "word" for "##word" or, where there is none (after punctuation), for "word". Of all these the most
frequent in TEXT are kept. teacher-ids.npy has the teacher's number of each piece.

The model is SentencePiece's unigram model: a text is cut into the pieces that are most probable together. The
probabilities are frequencies, found by cutting TEXT again and again (hard EM). Text is normalised by nmt_nfkc_cf, which
folds case as the teacher's does, but for a line break, which those rules take for a space: it stays, with spaces around it, so that a
word looks the same after a line break as elsewhere. What no piece covers is spelled in bytes.
"""

import collections
import random
import struct
import sys
import tempfile

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

from texts import lines_of

PIECES = 16384
ROUNDS = 4
SAMPLE = 40_000  # lines that are cut in each round
RULES = "nmt_nfkc_cf"
BREAK, SPACED_BREAK = "\n", " \n "
LETTERS = set("£€§°·–—‘’“”…áàâäãåæçéèêëíìîïñóòôöõøœßúùûüýÿαβγδελμπσω")  # besides ASCII; other characters are spelled in bytes
PAD, END, UNKNOWN = 0, 1, 2
TEACHER_UNKNOWN, TEACHER_END = "[UNK]", "[SEP]"
TEACHER_BREAK = "."  # the teacher, which takes a line break for a space, reads a full stop instead


def trained(lines, folder, **normalization):
    """A model of any kind: its special pieces and its rules of normalisation are what is used."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:20000]), model_prefix=f"{folder}/m", vocab_size=1000, model_type="unigram",
        byte_fallback=True, pad_id=PAD, eos_id=END, unk_id=UNKNOWN, bos_id=-1, pad_piece="<pad>", eos_piece="</s>",
        unk_piece="<unk>", hard_vocab_limit=False, remove_extra_whitespaces=True, minloglevel=2, **normalization)
    with open(f"{folder}/m.model", "rb") as f:
        return pb.ModelProto.FromString(f.read())


def rules_of(charsmap):
    """{text: what it becomes}: the entries of SentencePiece's map, which is the size of a double-array trie (darts-clone), the trie, and
    texts that end in a zero byte. A key that ends at a node has the text's position in the node's first child."""
    size, = struct.unpack("<I", charsmap[:4])
    units, texts = np.frombuffer(charsmap[4:4 + size], "<u4").tolist(), charsmap[4 + size:]
    children = lambda at: at ^ (units[at] >> 10 << ((units[at] & 0x200) >> 6))
    found, stack = {}, [(children(0), b"")]
    while stack:
        base, key = stack.pop()
        for byte in range(1, 256):
            at = base ^ byte
            if at >= len(units) or units[at] & 0x800000ff != byte:
                continue
            longer = key + bytes([byte])
            if units[at] >> 8 & 1:
                start = units[children(at)] & 0x7fffffff
                found[longer.decode()] = texts[start:texts.index(b"\0", start)].decode()
            stack.append((children(at), longer))
    return found


def normalizer(lines):
    """A trained model with the rules of this tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        rules = rules_of(trained(lines, folder, normalization_rule_name=RULES).normalizer_spec.precompiled_charsmap)
        rules[BREAK] = SPACED_BREAK
        codes = lambda text: " ".join(f"{ord(c):X}" for c in text)
        with open(f"{folder}/rules.tsv", "w", encoding="ascii") as f:
            f.writelines(f"{codes(a)}\t{codes(b)}\n" for a, b in sorted(rules.items()))
        model = trained(lines, folder, normalization_rule_tsv=f"{folder}/rules.tsv")
    model.normalizer_spec.normalization_rule_tsv = ""
    model.trainer_spec.model_prefix = ""
    return model


def candidates(vocabulary):
    """{piece: the teacher's number} of everything that English text may need."""
    number = {word: i for i, word in enumerate(vocabulary)}
    found = {}
    for word, i in number.items():
        bare = word.removeprefix("##")
        if (word.startswith("[") and len(word) > 2) or not all(c in LETTERS or c.isascii() for c in bare):
            continue
        if not word.startswith("##"):
            found["▁" + word] = i
            found.setdefault(bare, i)
        elif bare.isalnum():  # the teacher never sees "##," and the like, because it cuts at punctuation
            found[bare] = i
    found["▁"] = number[TEACHER_UNKNOWN]
    found[BREAK] = found["▁" + BREAK] = number[TEACHER_BREAK]
    return found


def model_of(base, scores):
    """The base with its ordinary pieces replaced."""
    model = pb.ModelProto()
    model.CopyFrom(base)
    kept = [p for p in base.pieces if p.type != p.NORMAL]
    del model.pieces[:]
    model.pieces.extend(kept)
    for piece, score in sorted(scores.items(), key=lambda item: (-item[1], item[0])):
        model.pieces.add(piece=piece, score=score)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model


def counts(model, lines):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    count = collections.Counter()
    for line in processor.encode(lines, out_type=str, num_threads=1):
        count.update(line)
    return count


def scores_of(count, pieces):
    """Logarithms of frequencies; a piece that does not occur counts as a third of an occurrence."""
    total = sum(count[p] for p in pieces) + len(pieces) / 3
    return {p: float(np.log(max(count[p], 1 / 3) / total)) for p in pieces}


def make(vocabulary, lines, pieces=PIECES, rounds=ROUNDS):
    """(model, teacher's numbers)"""
    base = normalizer(lines)
    special = sum(p.type != p.NORMAL for p in base.pieces)
    known = candidates(vocabulary)
    # At first longer pieces are likelier, as if each letter cost the same.
    scores = {p: -10.0 - 0.5 / len(p) for p in known}
    for at in range(rounds):
        sample = lines[at * SAMPLE:(at + 1) * SAMPLE] or random.sample(lines, min(SAMPLE, len(lines)))
        count = counts(model_of(base, scores), sample)
        # the list shrinks step by step; single characters always stay
        wanted = max(pieces - special, int(len(scores) * 0.7)) if at < rounds - 2 else pieces - special
        single = [p for p in scores if len(p.removeprefix("▁")) <= 1]
        others = sorted((p for p in scores if len(p.removeprefix("▁")) > 1), key=lambda p: (-count[p], p))
        scores = scores_of(count, single + others[:max(0, wanted - len(single))])
    model = model_of(base, scores)
    number = {word: i for i, word in enumerate(vocabulary)}
    ids = [number[TEACHER_END] if p.piece == "</s>" else known.get(p.piece, number.get(p.piece, number[TEACHER_UNKNOWN]))
           for p in model.pieces]
    return model, np.array(ids, "<u2")


def main():
    vocab, out, *texts = sys.argv[1:]
    with open(vocab, encoding="utf-8") as f:
        vocabulary = f.read().split("\n")[:-1]
    lines = []
    for path in texts:
        lines += [line for line in lines_of(path) if line.strip()]
    random.Random(0).shuffle(lines)
    model, ids = make(vocabulary, lines)
    with open(f"{out}/spiece.model", "wb") as f:
        f.write(model.SerializeToString())
    np.save(f"{out}/teacher-ids.npy", ids)
    print(f"{len(model.pieces)} pieces")


if __name__ == "__main__":
    main()
