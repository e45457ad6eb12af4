"""T5 with merged vectors as two ONNX graphs, an encoder and a decoder, for onnxruntime as a peer of scripts/bench cpu.

    bench_cpu_onnx.py CHECKPOINT OUT float32|int8 [--reduced]

The graphs use the operators into which onnxruntime itself turns an export: skip and norm in one, attention in one, queries,
keys and values of self-attention as one product. int8 is dynamic quantisation as quantize_dynamic of onnxruntime does it: weights
signed and by channel, activations unsigned and by tensor, attention in float32. --reduced quantises weights to 7 bits,
as onnxruntime recommends for processors without VNNI, whose sums of products saturate otherwise.

encoder: ids [rows, tokens] → hidden [rows, tokens, d_model]. decoder: ids, hidden, starts and labels [sequences, length],
valid [sequences, length] (1 for a token that counts) → the sequences' mean log-likelihoods. There are as many sequences for
each row; in cross-attention those of a row share its keys and values.
"""

import json
import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

import bench_cpu_setup as setup

MAX_TOKENS = 512
MAX_CHOICE = 64
HIDDEN_SCORE = -1e9
OWN = "com.microsoft"


class Weights:
    """Tensors in a file beside the graphs, because a graph may not exceed 2 GB. Equal names are stored once."""

    FILE = "weights.bin"
    TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8}

    def __init__(self, folder):
        self.file = open(f"{folder}/{self.FILE}", "wb")
        self.at = {}

    def add(self, name, make):
        """The tensor as an initializer; make() is called if it is not in the file yet."""
        if name not in self.at:
            array = np.ascontiguousarray(make())
            if array.nbytes < 4096:  # numbers that onnxruntime reads while it infers shapes
                return numpy_helper.from_array(array, name)
            self.file.write(b"\0" * (-self.file.tell() % 4096))
            self.at[name] = self.file.tell(), array.nbytes, array.shape, self.TYPES[str(array.dtype)]
            self.file.write(array.data)
        offset, length, shape, kind = self.at[name]
        tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.FILE), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def buckets(distance, bidirectional, n, limit):
    """T5's buckets of relative positions."""
    at = np.zeros_like(distance)
    if bidirectional:
        n //= 2
        at += (distance > 0) * n
        distance = np.abs(distance)
    else:
        distance = -np.minimum(distance, 0)
    exact = n // 2
    far = exact + (np.log(np.maximum(distance, 1) / exact) / np.log(limit / exact) * (n - exact)).astype(int)
    return at + np.where(distance < exact, distance, np.minimum(far, n - 1))


class Graph:
    """A graph under construction. Methods add operators and return the names of their results."""

    def __init__(self, config, tensors, weights, int8, reduced):
        self.c, self.tensors, self.weights = config, tensors, weights
        self.int8, self.limit = int8, 63 if reduced else 127
        self.nodes, self.initializers, self.names = [], {}, 0

    def op(self, kind, *inputs, outputs=1, domain="", **attributes):
        names = []
        for _ in range(outputs):
            self.names += 1
            names.append(f"{kind}{self.names}")
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, name, make):
        if name not in self.initializers:
            self.initializers[name] = self.weights.add(name, make)
        return name

    def numbers(self, *values):
        return self.weight("i" + "_".join(map(str, values)), lambda: np.array(values, np.int64))

    def vector(self, name):
        return self.weight(name, lambda: self.tensors[name])

    def linear(self, x, *names, factor=1):
        """x times the transposed weights of these names, side by side."""
        def matrix():
            return np.concatenate([self.tensors[n] for n in names]).T * np.float32(factor)
        name = "+".join(names) + ":transposed"
        if not self.int8:
            return self.op("MatMul", x, self.weight(name, matrix))

        def scales():
            return (np.abs(matrix()).max(0) / self.limit).astype(np.float32)
        scale = self.weight(name + ":scale", scales)
        rounded = self.weight(name, lambda: np.rint(matrix() / scales()).astype(np.int8))
        return self.op("DynamicQuantizeMatMul", x, rounded, scale, domain=OWN)

    def norm(self, x, name):
        return self.op("SimplifiedLayerNormalization", x, self.vector(name), axis=-1, epsilon=self.c["layer_norm_epsilon"])

    def add_and_norm(self, x, more, name):
        """(norm of the sum, sum)"""
        out = self.op("SkipSimplifiedLayerNormalization", x, more, self.vector(name), outputs=4, domain=OWN,
                      epsilon=self.c["layer_norm_epsilon"])
        self.nodes[-1].output[1] = self.nodes[-1].output[2] = ""
        return out[0], out[3]

    def position_bias(self, stack, limit, length):
        """[1, heads, length, length]; in the decoder, later positions are hidden."""
        def table():
            step = np.arange(limit)[None, :] - np.arange(limit)[:, None]
            which = buckets(step, stack == "encoder", self.c["relative_attention_num_buckets"],
                            self.c["relative_attention_max_distance"])
            values = self.tensors[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"][which]
            if stack == "decoder":
                values = np.where(step[:, :, None] > 0, np.float32(HIDDEN_SCORE), values)
            return values.transpose(2, 0, 1)[None].astype(np.float32)
        ends = self.op("Concat", length, length, axis=0)
        return self.op("Slice", self.weight(f"{stack}:bias", table), self.numbers(0, 0), ends, self.numbers(2, 3))

    def attend(self, q, k, v, bias="", mask=""):
        """q, k, v [rows, tokens, inner]; bias is added to the scores, mask is 0 for tokens that are hidden."""
        return self.op("MultiHeadAttention", q, k, v, "", mask, bias, domain=OWN, scale=1.0, num_heads=self.c["num_heads"])

    def self_attention(self, x, at, bias):
        q, k, v = self.op("Split", self.linear(x, *(f"{at}.{n}.weight" for n in "qkv")), outputs=3, axis=-1, num_outputs=3)
        return self.linear(self.attend(q, k, v, bias), f"{at}.o.weight")

    def feed_forward(self, x, at):
        wide = self.linear(x, f"{at}.wi_0.weight", f"{at}.wi_1.weight")
        gate, up = self.op("Split", wide, outputs=2, axis=-1, num_outputs=2)
        return self.linear(self.op("Mul", self.op("FastGelu", gate, domain=OWN), up), f"{at}.wo.weight")

    def size(self, x, axis):
        return self.op("Shape", x, start=axis, end=axis + 1)

    def embed(self, ids):
        return self.op("Gather", self.vector("shared.weight"), ids)

    def padding(self, ids):
        """[rows, 1, 1, tokens], very low where there is padding."""
        low, zero = (self.weight(name, lambda: np.array(value, np.float32)) for name, value in (("low", HIDDEN_SCORE), ("zero", 0)))
        hidden = self.op("Where", self.op("Equal", ids, self.numbers(0)), low, zero)
        return self.op("Unsqueeze", hidden, self.numbers(1, 2))

    def encoder(self):
        tokens = self.size("ids", 1)
        bias = self.op("Add", self.position_bias("encoder", MAX_TOKENS, tokens), self.padding("ids"))
        x = self.embed("ids")
        y = self.norm(x, "encoder.block.0.layer.0.layer_norm.weight")
        for i in range(self.c["num_layers"]):
            at = f"encoder.block.{i}.layer"
            y, x = self.add_and_norm(x, self.self_attention(y, f"{at}.0.SelfAttention", bias), f"{at}.1.layer_norm.weight")
            last = i + 1 == self.c["num_layers"]
            y, x = self.add_and_norm(x, self.feed_forward(y, f"{at}.1.DenseReluDense"), "encoder.final_layer_norm.weight" if last
                                     else f"encoder.block.{i + 1}.layer.0.layer_norm.weight")
        return y

    def cross_attention(self, y, at, rows, mask):
        """The queries of all sequences of a row belong to that row's keys and values."""
        q = self.linear(y, f"{at}.q.weight")
        k, v = self.op("Split", self.linear("hidden", f"{at}.k.weight", f"{at}.v.weight"), outputs=2, axis=-1, num_outputs=2)
        inner = self.c["num_heads"] * self.c["d_kv"]
        q = self.op("Reshape", q, self.op("Concat", rows, self.numbers(-1, inner), axis=0))
        back = self.op("Concat", self.op("Shape", "starts"), self.numbers(inner), axis=0)
        return self.linear(self.op("Reshape", self.attend(q, k, v, mask=mask), back), f"{at}.o.weight")

    def decoder(self):
        rows, length = self.size("hidden", 0), self.size("starts", 1)
        causal = self.position_bias("decoder", MAX_CHOICE, length)
        mask = self.op("Cast", self.op("Not", self.op("Equal", "ids", self.numbers(0))), to=TensorProto.INT32)
        x = self.embed("starts")
        y = self.norm(x, "decoder.block.0.layer.0.layer_norm.weight")
        for i in range(self.c["num_decoder_layers"]):
            at = f"decoder.block.{i}.layer"
            y, x = self.add_and_norm(x, self.self_attention(y, f"{at}.0.SelfAttention", causal),
                                     f"{at}.1.layer_norm.weight")
            y, x = self.add_and_norm(x, self.cross_attention(y, f"{at}.1.EncDecAttention", rows, mask),
                                     f"{at}.2.layer_norm.weight")
            last = i + 1 == self.c["num_decoder_layers"]
            y, x = self.add_and_norm(x, self.feed_forward(y, f"{at}.2.DenseReluDense"), "decoder.final_layer_norm.weight" if last
                                     else f"decoder.block.{i + 1}.layer.0.layer_norm.weight")
        tied = self.c["tie_word_embeddings"]
        logits = self.linear(y, "shared.weight" if tied else "lm_head.weight", factor=self.c["d_model"] ** -0.5 if tied else 1)
        return self.mean_log_likelihood(logits)

    def mean_log_likelihood(self, logits):
        of_labels = self.op("GatherElements", self.op("LogSoftmax", logits, axis=-1),
                            self.op("Unsqueeze", "labels", self.numbers(2)), axis=2)
        counted = self.op("Mul", self.op("Squeeze", of_labels, self.numbers(2)), "valid")
        total, n = (self.op("ReduceSum", x, self.numbers(1), keepdims=0) for x in (counted, "valid"))
        return self.op("Div", total, n)

    def save(self, path, inputs, result, output):
        self.nodes.append(helper.make_node("Identity", [result], [output]))
        graph = helper.make_graph(self.nodes, output, [
            helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], list(self.initializers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(OWN, 1)])
        model.ir_version = 10
        save_model(model, path)


def main():
    checkpoint, out, dtype, *options = sys.argv[1:]
    with open(f"{checkpoint}/config.json") as f:
        config = json.load(f)
    tensors = setup.read_safetensors(f"{checkpoint}/model.safetensors")
    weights = Weights(out)
    ids = {"ids": (TensorProto.INT64, ["rows", "tokens"])}
    sequences = {"starts": (TensorProto.INT64, ["sequences", "length"]), "labels": (TensorProto.INT64, ["sequences", "length"]),
                 "valid": (TensorProto.FLOAT, ["sequences", "length"])}
    hidden = {"hidden": (TensorProto.FLOAT, ["rows", "tokens", config["d_model"]])}
    for name, inputs, output in (("encoder", ids, "hidden"), ("decoder", dict(ids, **hidden, **sequences), "scores")):
        graph = Graph(config, tensors, weights, dtype == "int8", "--reduced" in options)
        graph.save(f"{out}/{name}.onnx", inputs, getattr(graph, name)(), output)



if __name__ == "__main__":
    main()
