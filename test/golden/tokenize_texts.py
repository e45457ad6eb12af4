#!/usr/bin/env python3
"""Writes tokens-t5.tsv and tokens-backbone.tsv: ids of 300 awkward texts by the sentencepiece library.

    venv/bin/python tokenize_texts.py [../../../shared]

The argument is the folder that holds tokenizers/t5/spiece.model; without that file only tokens-backbone.tsv is made.
"""

import os
import random
import sys
import unicodedata

import sentencepiece

ROOT = os.path.dirname(os.path.abspath(__file__))

FIXED = [
    "", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\ufeff", "a", "▁", "▁▁", "▁a", "a▁b", "_", "__",
    # control-token look-alikes: all of them text
    "</s>", "<s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_99>", "<extra_id_100>", "yes</s>", "</s>no", "a </s> b",
    "Label:</s>", "<pad><pad>", "⁇", "<0x0A>", "<unk> unk", "<extra_id_0>. Hello", "</s></s>", "< /s>", "<EXTRA_ID_0>",
    # what T5's vocabulary does not have
    "{", "}", "~", "\\", "^", "<", "{}~\\^<", "{text}", "{{choices}}", "a<b", "x^2", "~user", "C:\\dir\\file", "if (a < b) {",
    "`", "|", "|||", "$", "#", "@", "&amp;", "<div class=\"x\">", "&lt;/s&gt;", "[MASK]", "[CLS] a [SEP]",
    # spaces, tabs, newlines
    "a b", "a  b", "a   b", " a", "a ", "  a  ", "a\tb", "a\nb", "a\r\nb", "a\n\nb", "\ta\t", "a\u00a0b", "a\u2003b",
    "a\u3000b", "a\u200bb", "a\u200db", "a\u2028b", "a\u2029b", "a\u0085b", "a\x0bb", "a\x0cb", "\x01", "a\x01b", "a\x7fb",
    " " * 100, "a" + " " * 200 + "b", "\n" * 50, "\t \n \t", "end of line\n", "\n\nstart",
    # numbers
    "0", "1", "10", "100", "1,000", "1.000,5", "3.14159265358979", "-1", "+1", "1e-30", "0x1F", "2024-02-29", "12:34:56",
    "1/2", "½", "²", "x₂", "Ⅷ", "①", "٣", "३", "１２３", "1" * 64, "50%", "€5", "$1.99", "No. 5", "1st 2nd 3rd",
    # normalisation: composed and decomposed, compatibility forms, ligatures, case
    "é", "e\u0301", "ﬁ", "ﬂuﬀy", "Å", "A\u030a", "\u212b", "ǆ", "ſ", "ß", "ẞ", "İ", "ı", "Ω", "Ω", "ℌ", "ﷺ", "㎏", "㍿", "™",
    "ａｂｃ", "ＡＢＣ１２３", "ｶﾞ", "ガ", "カ\u3099", "가", "가", "각", "…", "‥", "—", "–", "‐", "−", "“quotes”", "‘single’",
    "«guillemets»", "„low“", "''", "``", "'", "\"", "don't", "don’t", "rock’n’roll",
    # combining marks, zero width, direction
    "a\u0300\u0301\u0302\u0303", "Z\u0351\u036b\u0343a\u0311l\u0344g\u0349o\u0329", "\u0301", "\u0301a", "שלום", "مرحبا",
    "مَرْحَبًا", "abc שלום def", "\u202eabc\u202c", "\u2066abc\u2069", "हिन्दी", "ไทย", "தமிழ்", "ქართული", "Հայերեն",
    "\u061c", "\u180e", "\u2060a\u2060b", "soft\u00adhyphen", "\u034f",
    # scripts and symbols
    "Grüße aus München", "Straße", "naïve café", "Ça va ?", "¿Qué tal?", "Żółć", "Příliš žluťoučký kůň", "Привет, мир",
    "Ελληνικά", "日本語", "中文字符", "한국어", "你好，世界！", "東京都", "𠮷野家", "𝐛𝐨𝐥𝐝", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "♥", "★☆", "→←", "∑∫√", "±×÷",
    "≤≥≠", "°C", "§ 5", "¶", "©®", "•", "■", "\ufffd", "\ue000", "\U000f0000", "\U0010ffff", "\ufdd0", "🀄",
    # emoji
    "😀", "😀😀😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "❤", "1️⃣", "a😀b", "😀 a", "🤷🏻‍♀️ whatever", "☺", "☺️", "🫠",
    # long
    "a" * 1000, "ab" * 500, "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaftskapitän",
    "x" * 63 + " " + "y" * 63, "pneumonoultramicroscopicsilicovolcanoconiosis", "é" * 200, "😀" * 50, "日" * 100,
    "the " * 200, "A" * 300, "." * 100, "-" * 100, "!?" * 40, "https://example.org/a/b?c=d&e=f#g", "user@example.org",
    # ordinary text of the kind that is classified
    "My order has not arrived yet and nobody answers my e-mails.", "Is this review positive or negative?",
    "Sentence: She was late. Label:", "ADE-related", "not ADE-related", "hate speech", "Refund_not_showing_up",
    "card_payment_fee_charged", "Yes", "No", "yes", "no", "True", "False", "maybe.", "positive", "negative", " positive",
    "The quick brown fox jumps over the lazy dog.", "I CAN'T BELIEVE IT!!!", "tl;dr", "C++", "C#", "F.A.Q.", "e.g., i.e.",
    "U.S.A.", "O'Reilly", "AT&T", "rock & roll", "50/50", "24/7", "#hashtag @mention", "RT @user: lol :-)", ":-(", "<3",
    "SELECT * FROM t WHERE a <> 'b';", "{\"key\": [1, 2.5, null]}", "def f(x):\n    return x\n", "\\begin{equation}",
]


def generated(rng, n):
    """Random strings over mixed alphabets, to reach n texts in all."""
    alphabets = ["abc ", "aA1.-_ ", "</s>pad <", "àéîõü ", "абв ", "日本語テ", "😀👍🏽\u200d ", "{}~\\^<>| ", "\t\n ",
                 "eée\u0301 ", "٠١٢ ", "ａｂ１ ", "שלום ", "▁a ", "\u200b\u00a0x "]
    return ["".join(rng.choice(rng.choice(alphabets) if rng.random() < 0.3 else alphabets[i % len(alphabets)])
                    for _ in range(rng.randint(1, 40))) for i in range(n)]


def ambiguous(processor, text):
    """Two segmentations of equal score, as of long runs of one character: which one wins depends on how a version of
    the library rounds its sums."""
    best = processor.nbest_encode_as_ids(text, 2)
    scores = [sum(processor.get_score(i) for i in ids) for ids in best]
    return len(scores) == 2 and abs(scores[0] - scores[1]) < 1e-3


def texts(processor):
    fixed = list(dict.fromkeys(FIXED + [unicodedata.normalize("NFD", t) for t in FIXED[-40:]]))
    candidates = fixed + generated(random.Random(7), 100)
    return [t for t in candidates if not ambiguous(processor, t)][:300]


def write(model, path):
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    with open(path, "w") as f:
        for t in texts(processor):
            ids = processor.encode(t) + [processor.eos_id()]
            f.write(" ".join(map(str, ids)) + "\t" + t.encode().hex() + "\n")


def main():
    shared = sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/../../../shared"
    write(f"{ROOT}/../backbone/spiece.model", f"{ROOT}/tokens-backbone.tsv")
    t5 = f"{shared}/tokenizers/t5/spiece.model"
    if os.path.exists(t5):
        write(t5, f"{ROOT}/tokens-t5.tsv")
    else:
        print(f"{t5} is absent: tokens-t5.tsv left as it is", file=sys.stderr)


if __name__ == "__main__":
    main()
