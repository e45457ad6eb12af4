#!/usr/bin/env python3
"""Writes tokenizers/*: small tokenizers in the layouts that transformers saves and the hub has, with the ids that
transformers 5 gives to several hundred texts.

    venv/bin/python tokenizer_files.py                          # transformers==5.24.0, sentencepiece==0.2.3, protobuf==7.36.2
    venv/bin/python tokenizer_files.py --compare MODEL FOLDER   # texts for one large SentencePiece model, see below

Texts with a token that marks a place ("</s>", "<extra_id_0>") are left out: ia3 never makes such a token of text. So are those
for which transformers and the sentencepiece library disagree; how many that are is printed.

--compare writes to FOLDER what transformers 5 saves of the model (tokenizer.json), and 10,000 random texts with the ids of the
sentencepiece library (tokens.tsv), for build/release/test/test_tokenizer_files FOLDER.
"""

import json
import os
import random
import re
import shutil
import sys
import tempfile

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tokenize_texts  # noqa: E402

ROOT = os.path.dirname(os.path.abspath(__file__))
OUT = f"{ROOT}/tokenizers"
CONTROL = re.compile("</s>|<s>|<pad>|<unk>|<mask>|<extra_id_")
ADDED = [
    "x { y }", "x{y}", "  {  }", "{", " {", "{ ", "{}{}", "a<sep>b <sep> c", "<sep>", "<sep><sep>", "COVID is COVIDs", "xCOVID",
    "COVID", "COVID-19 (COVID)", "éCOVID", "COVID\u0301", "_COVID_", "<sp> hello", "a <sp> b", "a\t<sp>\nb", "<sp><sep>",
    "newtoken newtokens", "anewtoken", "<seps> <se p>", "x <sep>\u3000<sp> y", "{\"a\": {\"b\": 1}}", "日本COVID語", "日本 COVID 語",
]
CODE = [
    "def f(x):\n    return x + 1\n", "if (a<b) { return a; }", "\tfor (;;)\n\n\n  x++;", "it's we've I'll you'd he'm they're Don'T",
    "x" * 300, " " * 50 + "x", "\n" * 40, "a\u0085b\u2028c\u180ed", "x\u00a0\u00a0y", "１２３ ٣٤ ½ Ⅷ", "naïve e\u0301 中文 한국어",
    "print('%s' % x) # note", "   leading", "trailing   ", "1234567890 12 3", "😀👍🏽 a", "\x01\x02", "don’t", "a_b __init__",
]


def write(path, value):
    with open(path, "w") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)


def folder(name, **files):
    path = f"{OUT}/{name}"
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    for file, value in files.items():
        write(f"{path}/{file}.json", value)
    return path


def texts(extra):
    fixed = list(dict.fromkeys(extra + tokenize_texts.FIXED))
    return [t for t in fixed + tokenize_texts.generated(random.Random(11), 30) if not CONTROL.search(t)]


def expected(path, extra, agrees=lambda text, ids: True):
    """Writes tokens.tsv for a folder."""
    tok = AutoTokenizer.from_pretrained(path)
    left_out = 0
    with open(f"{path}/tokens.tsv", "w") as f:
        for t in texts(extra):
            ids = tok(t).input_ids
            if not agrees(t, ids):
                left_out += 1
                continue
            f.write(" ".join(map(str, ids)) + "\t" + t.encode().hex() + "\n")
    print(f"{os.path.basename(path)}: {type(tok).__name__}, {left_out} texts left out")


def sentences():
    docs = f"{ROOT}/../../docs"
    lines = [line.strip() for name in sorted(os.listdir(docs)) if name.endswith(".md") for line in open(f"{docs}/{name}")]
    return [line for line in lines if len(line) > 20 and not re.search("[{}]", line)][:3000]  # T5 has no braces either


def train_sentencepiece(path, **options):
    """A model of 400 pieces with a small table of normalization rules."""
    with tempfile.TemporaryDirectory() as d:
        with open(f"{d}/rules.tsv", "w") as f:
            for source, target in [("\u00a0", " "), ("\u3000", " "), ("\t", " "), ("\n", " "), ("\r", " "), ("ﬁ", "fi"),
                                   ("e\u0301", "é"), ("①", "1"), ("Ａ", "A"), ("ａ", "a"), ("…", "..."), ("\u200b", " ")]:
                f.write(" ".join(f"{ord(c):X}" for c in source) + "\t" + " ".join(f"{ord(c):X}" for c in target) + "\n")
        with open(f"{d}/text", "w") as f:
            f.write("\n".join(sentences()))
        sentencepiece.SentencePieceTrainer.train(
            input=f"{d}/text", model_prefix=f"{d}/m", character_coverage=0.998, minloglevel=2, num_threads=1, **{
                "vocab_size": 400, "normalization_rule_tsv": f"{d}/rules.tsv", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1,
                              **options})
        shutil.copy(f"{d}/m.model", path)


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False,
            **flags}


def controls(names):
    return {str(i): added(n, normalized=False, special=True) for i, n in enumerate(names)}


T5 = {"eos_token": "</s>", "extra_ids": 100, "legacy": True, "model_max_length": 1000000000000000019884624838656,
      "pad_token": "<pad>", "tokenizer_class": "T5Tokenizer", "unk_token": "<unk>"}
EXTRA = [f"<extra_id_{i}>" for i in range(100)]


def unigram():
    path = folder("unigram", config={"model_type": "t5"}, tokenizer_config=T5)
    train_sentencepiece(f"{path}/spiece.model")
    sp = sentencepiece.SentencePieceProcessor(model_file=f"{path}/spiece.model")

    def agrees(text, ids):
        return ids == sp.encode(text) + [1] and not tokenize_texts.ambiguous(sp, text)

    expected(path, [], agrees)

    # what transformers 5 saves
    saved = folder("unigram-json", config={"model_type": "t5"})
    AutoTokenizer.from_pretrained(path).save_pretrained(saved)
    shutil.copy(f"{path}/tokens.tsv", saved)

    # what transformers 4 saves
    saved4 = folder("unigram-json-4", config={"model_type": "t5"}, tokenizer_config=T5)
    old = json.load(open(f"{saved}/tokenizer.json"))
    old["normalizer"] = {"type": "Sequence", "normalizers": [
        old["normalizer"], {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]}
    old["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    write(f"{saved4}/tokenizer.json", old)
    shutil.copy(f"{path}/tokens.tsv", saved4)

    # added tokens, as transformers writes them since 4.34
    decoder = controls(["<pad>", "</s>", "<unk>"])
    decoder |= {str(499 - i): added(n, lstrip=True, normalized=False, rstrip=True, special=True) for i, n in enumerate(EXTRA)}
    decoder |= {"500": added("{"), "501": added("}"), "502": added("COVID", single_word=True),
                "503": added("<sep>", normalized=False, special=True, lstrip=True, rstrip=True),
                "504": added("<sp>", normalized=False, special=True), "505": added("newtoken")}
    path5 = folder("added", config={"model_type": "t5"}, tokenizer_config=T5 | {
        "added_tokens_decoder": decoder, "additional_special_tokens": EXTRA + ["<sep>", "<sp>"]})
    shutil.copy(f"{path}/spiece.model", path5)

    def plain(text, ids):
        return re.search("[{}]|COVID|<sep>|<sp>|newtoken", text) and "▁" not in text or agrees(text, ids)

    expected(path5, ADDED, plain)
    saved5 = folder("added-json", config={"model_type": "t5"})
    AutoTokenizer.from_pretrained(path5).save_pretrained(saved5)
    expected(saved5, ADDED, plain)

    # added tokens, as it wrote them before
    path3 = folder("added-files", config={"model_type": "t5"}, tokenizer_config=T5 | {"additional_special_tokens": EXTRA + ["<sep>"]},
                   added_tokens={"{": 500, "}": 501, "<sep>": 502, "newtoken": 503},
                   special_tokens_map={"additional_special_tokens": EXTRA + ["<sep>"], "eos_token": "</s>",
                                       "pad_token": {"content": "<pad>", "lstrip": False}, "unk_token": "<unk>"})
    shutil.copy(f"{path}/spiece.model", path3)
    expected(path3, ADDED, plain)


def llama():
    """Pieces with "▁" and bytes, as of Llama, with </s> after a text: Pile-T5's kind."""
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None,
              "add_bos_token": False, "add_eos_token": True, "legacy": True}
    path = folder("llama", config={"model_type": "t5"}, tokenizer_config=config)
    train_sentencepiece(f"{path}/tokenizer.model", model_type="bpe", byte_fallback=True, pad_id=-1, unk_id=0, bos_id=1, eos_id=2,
                        normalization_rule_tsv="", normalization_rule_name="identity", remove_extra_whitespaces=False,
                        split_digits=True, vocab_size=600)
    sp = sentencepiece.SentencePieceProcessor(model_file=f"{path}/tokenizer.model")

    def agrees(text, ids):
        return ids == sp.encode(text) + [2]

    expected(path, CODE, agrees)
    saved = folder("llama-json", config={"model_type": "t5"})
    AutoTokenizer.from_pretrained(path).save_pretrained(saved)
    shutil.copy(f"{path}/tokens.tsv", saved)


def byt5():
    path = folder("byt5", config={"model_type": "t5", "tokenizer_class": "ByT5Tokenizer"}, tokenizer_config={
        "tokenizer_class": "ByT5Tokenizer", "extra_ids": 125, "additional_special_tokens": [f"<extra_id_{i}>" for i in range(125)],
        **{f"{name}_token": {"__type": "AddedToken", **added(content)}
           for name, content in [("eos", "</s>"), ("pad", "<pad>"), ("unk", "<unk>")]}})
    expected(path, CODE)


def byte_level(name, kind, specials, post_processor, extra=(), **config):
    """A byte-level BPE of 500 pieces: the folder NAME with vocab.json and merges.txt, and NAME-json with tokenizer.json."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(sentences(), trainers.BpeTrainer(
        vocab_size=500, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    path = folder(name, config={"model_type": "t5"}, tokenizer_config={"tokenizer_class": kind, **config})
    bpe.model.save(path)
    if extra:
        write(f"{path}/added_tokens.json", {t: 500 + i for i, t in enumerate(extra)})
    expected(path, CODE + ADDED)
    saved = folder(f"{name}-json", config={"model_type": "t5"})
    AutoTokenizer.from_pretrained(path).save_pretrained(saved)
    expected(saved, CODE + ADDED)


def compare(model, out):
    """See the beginning of this file."""
    with tempfile.TemporaryDirectory() as d:
        shutil.copy(model, f"{d}/spiece.model")
        write(f"{d}/config.json", {"model_type": "t5"})
        write(f"{d}/tokenizer_config.json", T5)
        AutoTokenizer.from_pretrained(d).save_pretrained(out)
    sp = sentencepiece.SentencePieceProcessor(model_file=model)
    rng = random.Random(23)
    pieces = [sp.id_to_piece(i).replace("▁", " ") for i in range(3, sp.get_piece_size())]
    with open(f"{out}/tokens.tsv", "w") as f:
        n = 0
        while n < 10000:
            kind = rng.randint(0, 2)
            if kind == 0:
                t = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 20)))
            elif kind == 1:
                t = "".join(chr(rng.choice([rng.randint(32, 126), rng.randint(0xa0, 0x24f), rng.randint(0x300, 0x2fff)]))
                            for _ in range(rng.randint(1, 30)))
            else:
                t = tokenize_texts.generated(rng, 15)[rng.randint(0, 14)]
            if CONTROL.search(t) or tokenize_texts.ambiguous(sp, t):
                continue
            f.write(" ".join(map(str, sp.encode(t) + [sp.eos_id()])) + "\t" + t.encode().hex() + "\n")
            n += 1


def main():
    if sys.argv[1:2] == ["--compare"]:
        compare(sys.argv[2], sys.argv[3])
        return
    unigram()
    llama()
    byt5()
    byte_level("roberta", "RobertaTokenizer", ["<pad>", "<s>", "</s>", "<unk>", "<mask>"], None, bos_token="<s>", cls_token="<s>",
               eos_token="</s>", sep_token="</s>", mask_token="<mask>", pad_token="<pad>", unk_token="<unk>", add_prefix_space=False)
    byte_level("gpt2", "GPT2Tokenizer", ["<pad>", "<s>", "</s>", "<unk>"], None, extra=["<LM>", "<SC1>", "<extra_id_0>"],
               bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


if __name__ == "__main__":
    main()
