#!/usr/bin/env python3
"""Writes the golden files of test/engine/test_golden.c and test_gradient.c.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python generate.py [NAME...]

Per configuration (configs.py) a directory with a Hugging Face checkpoint, peft's own adapter files under adapter/
(and adapter_wi1/, the vectors in the wi_1 placement, and tfew.safetensors, T-Few's names, for gated models) and
expected.safetensors, all float32, whole numbers included. README.md lists the names.
"""

import json
import os
import shutil
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from safetensors.torch import load_file as load_torch_file  # noqa: E402
from safetensors.torch import save_file as save_torch_file  # noqa: E402
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402
from transformers import Adafactor  # noqa: E402

import configs  # noqa: E402
import oracle  # noqa: E402

STEPS, BATCH, RATE, WARMUP = 20, 4, 3e-3, 0.12  # 2.4 warm-up steps: the schedule is not rounded
LOSS_FLOOR = 0.1
SPAN = 150  # bias tables and buckets are given for distances -149 .. 149
TFEW_BATCH, RAGGED_BATCH, RAGGED_WEIGHTS = [0, 1, 2, 3, 4], [1, 8, 9], (0.7, 1.3, 0.4)
STORAGE = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def write_checkpoint(golden, directory, weights):
    """Returns the weights as a reader of the files sees them (float32, rounded to the stored dtype)."""
    config = configs.config_json(golden)
    with open(f"{directory}/config.json", "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    state = {("shared.weight" if n == "shared.weight" else n): torch.from_numpy(w).to(STORAGE[golden.storage])
             for n, w in weights.items()}
    stored = {golden.shared_name if n == "shared.weight" else n: t.contiguous() for n, t in state.items()}
    if golden.shards == 1:
        save_torch_file(stored, f"{directory}/model.safetensors", metadata={"format": "pt"})
    else:
        write_shards(directory, stored, golden.shards)
    return {n: t.float().numpy() for n, t in state.items()}


def make_weights(golden, directory):
    if not golden.source:
        return write_checkpoint(golden, directory, configs.draw_weights(golden, oracle.weight_shapes(golden)))
    stored = load_torch_file(f"{configs.CHECKOUT}/{golden.source}/model.safetensors")
    return {n: stored[n].float().numpy() for n in oracle.weight_shapes(golden)}


def write_shards(directory, stored, n_shards):
    names = sorted(stored)
    cut = [names[i * len(names) // n_shards:(i + 1) * len(names) // n_shards] for i in range(n_shards)]
    weight_map = {}
    for i, part in enumerate(cut):
        file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        save_torch_file({n: stored[n] for n in part}, f"{directory}/{file}", metadata={"format": "pt"})
        weight_map |= {n: file for n in part}
    size = sum(t.numel() * t.element_size() for t in stored.values())
    with open(f"{directory}/model.safetensors.index.json", "w") as f:
        json.dump({"metadata": {"total_size": size}, "weight_map": weight_map}, f, indent=1)
        f.write("\n")


def write_adapter(model, directory, name):
    """peft's own writer; its config file is only put in order (it writes sets) and told the backbone's name."""
    model.save_pretrained(directory)
    os.remove(f"{directory}/README.md")
    with open(f"{directory}/adapter_config.json") as f:
        config = json.load(f)
    config["base_model_name_or_path"] = f"golden/{name}"
    config = {k: sorted(v) if isinstance(v, list) else v for k, v in config.items()}
    with open(f"{directory}/adapter_config.json", "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


def tfew_vectors(vectors):
    """The same vectors under T-Few's names and shapes (only gated models have all of them)."""
    out = {}
    for name, x in vectors.items():
        name = name.removeprefix("base_model.model.").removesuffix(".ia3_l").replace(".wo", ".wi_1")
        out[name + ".multi_lora_b"] = np.ascontiguousarray(x.reshape(-1, 1))
    return out


def expect_inputs(model, inputs, out):
    """Forward results of every input and choice into `out`."""
    trace = oracle.Trace(model)
    for i, (ids, choices) in enumerate(inputs):
        encoded = oracle.encode(model, ids)
        scores = []
        for c, choice in enumerate(choices):
            lp = oracle.logprobs(model, encoded, choice).double().numpy()
            scores.append(lp.mean())
            out[f"input.{i}.choice.{c}.lp"] = lp
            for site in [s for s in trace.values if s.startswith(("decoder.block", "decoder.out"))]:
                out[f"input.{i}.choice.{c}.{site}"] = trace.values[site]
        for site in [s for s in trace.values if s.startswith(("encoder", "decoder.cross"))]:
            out[f"input.{i}.{site}"] = trace.values[site]
        out[f"input.{i}.scores"] = np.array(scores)
    trace.close()


def expect_bias(golden, model, out):
    """Buckets by distance (key - query), and the bias [heads, 2·SPAN - 1] of every layer that owns a table."""
    c = configs.config_json(golden)
    distance = torch.arange(-(SPAN - 1), SPAN).unsqueeze(0)
    for side in ("encoder", "decoder"):
        for i, block in enumerate(getattr(oracle.bare(model), side).block):
            attention = block.layer[0].SelfAttention
            if not attention.has_relative_attention_bias:
                continue
            if c["model_type"] == "umt5":
                buckets = attention._relative_position_bucket(distance)
            else:
                buckets = attention._relative_position_bucket(
                    distance, side == "encoder", attention.relative_attention_num_buckets,
                    attention.relative_attention_max_distance)
            out[f"bucket.{side}"] = buckets[0].numpy()
            if golden.name == "umt5-bias-per-layer" or i == 0:
                table = attention.relative_attention_bias.weight.detach()
                out[f"bias.{side}.{i}"] = table[buckets[0]].T.double().numpy()


def train(model, examples, plan):
    """T-Few's optimizer and schedule on the batches of `plan`: losses per step [steps, 4], final vectors."""
    parameters = oracle.vectors_of(model)
    optimizer = Adafactor(list(parameters.values()), lr=RATE, weight_decay=0.0, scale_parameter=True,
                          relative_step=False, warmup_init=False)
    warmup = STEPS * WARMUP
    schedule = LambdaLR(optimizer, lambda k: k / max(1, warmup) if k < warmup
                        else max(0.0, (STEPS - k) / max(1, STEPS - warmup)))
    curve = []
    for batch in plan:
        optimizer.zero_grad()
        total, parts = oracle.losses(model, [examples[i] for i in batch], "batch")
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        schedule.step()
        curve.append([float(total.detach())] + [float(p.detach()) for p in parts])
    return np.array(curve), {n: p.detach().double().numpy().copy() for n, p in parameters.items()}


def run(golden, weights, vectors, dtype, out):
    """Everything that depends on the precision, for one precision, into the dictionary `out`."""
    inputs, examples = configs.draw_inputs(golden), configs.draw_examples(golden)
    plan = configs.draw_plan(golden, STEPS, BATCH)
    with oracle.precision(dtype):
        model = oracle.build(golden, weights, vectors, dtype)
        with torch.no_grad():
            expect_inputs(model, inputs, out)
            with model.disable_adapter():
                for i, (ids, choices) in enumerate(inputs):
                    encoded = oracle.encode(model, ids)
                    out[f"input.{i}.bare_scores"] = np.array(
                        [float(oracle.logprobs(model, encoded, c).mean()) for c in choices])
        batches = [("tfew.batch", TFEW_BATCH, "batch", (1, 1, 1)), ("tfew.example", TFEW_BATCH, "example", (1, 1, 1)),
                   ("ragged.batch", RAGGED_BATCH, "batch", RAGGED_WEIGHTS),
                   ("ragged.example", RAGGED_BATCH, "example", RAGGED_WEIGHTS)]
        for name, indices, averaging, loss_weights in batches:
            grads, (total, parts) = oracle.gradients(model, [examples[i] for i in indices], averaging, loss_weights)
            out[f"{name}.losses"] = np.array([total, *parts])
            out |= {f"{name}.grad.{n}": g for n, g in grads.items()}
        curve, final = train(model, examples, plan)
        out["steps.losses"] = curve
        out |= {f"steps.final.{n}": v for n, v in final.items()}


def relative(a, b):
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def loss_error(got, want):
    """Largest relative error of losses. The unlikelihood term, without its constant, crosses zero: a loss below
    LOSS_FLOOR is measured against LOSS_FLOOR."""
    return float((np.abs(got - want) / np.maximum(np.abs(want), LOSS_FLOOR)).max())


def cosine(a, b):
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


def errors(got, want):
    """How far one precision is from the float64 run, in the measures of the tolerance table."""
    lp = np.concatenate([np.abs(got[n] - want[n]) for n in want if n.endswith(".lp")])
    activations = [n for n in want if ".block." in n and ".grad." not in n and ".final." not in n
                   or n.endswith(".out") or ".cross_" in n]
    grad = [n for n in want if ".grad." in n]
    final = np.concatenate([np.abs(got[n] - want[n]).ravel() for n in want if n.startswith("steps.final.")])
    losses = [n for n in want if n.startswith(("tfew", "ragged")) and n.endswith(".losses")]
    return {
        "lp_mean": lp.mean(), "lp_max": lp.max(),
        "activation": max(relative(got[n], want[n]) for n in activations),
        "losses": max(loss_error(got[n], want[n]) for n in losses),
        "grad": max(relative(got[n], want[n]) for n in grad),
        "grad_cosine": min(cosine(got[n], want[n]) for n in grad),
        "final_max": final.max(), "final_mean": final.mean(), "steps": loss_error(got["steps.losses"], want["steps.losses"]),
    }


def check_constant(golden, weights, vectors, want):
    """T-Few's padded formula gives the same losses, the unlikelihood term shifted by a constant."""
    examples = configs.draw_examples(golden)
    with oracle.precision(torch.float64), torch.no_grad():
        model = oracle.build(golden, weights, vectors, torch.float64)
        lm, unlikelihood, constant, mc = oracle.padded_losses(model, [examples[i] for i in TFEW_BATCH])
    got = np.array([lm, unlikelihood - constant, mc])
    assert np.allclose(got, want["tfew.batch.losses"][1:], rtol=1e-9, atol=1e-9), (got, want["tfew.batch.losses"])
    want["tfew.constant"] = np.array([constant])


def check_forms(golden, weights, vectors, want, directory):
    """wi_1 placement: same vectors, other names; must score alike. Writes the two other adapter forms."""
    moved = {n.replace(".wo.ia3_l", ".wi_1.ia3_l"): np.ascontiguousarray(x.reshape(-1, 1)) if ".wo." in n else x
             for n, x in vectors.items()}
    with oracle.precision(torch.float64), torch.no_grad():
        model = oracle.build(golden, weights, moved, torch.float64, ("k", "v", "wi_1"), ())
        for i, (ids, choices) in enumerate(configs.draw_inputs(golden)):
            encoded = oracle.encode(model, ids)
            got = np.array([float(oracle.logprobs(model, encoded, c).mean()) for c in choices])
            assert np.abs(got - want[f"input.{i}.scores"]).max() < 1e-9
    write_adapter(oracle.build(golden, weights, moved, torch.float32, ("k", "v", "wi_1"), ()),
                  f"{directory}/adapter_wi1", golden.name)
    save_file(tfew_vectors(vectors), f"{directory}/tfew.safetensors")


def check_checkpoint(golden, vectors, want, directory):
    """What was written is what transformers reads (except where transformers itself goes wrong: see oracle.py)."""
    if golden.name in ("mt5-own-head", "madlad-embedding"):
        return
    model_class = oracle.CLASSES[golden.config.get("model_type", "t5")][1]
    base, loading = model_class.from_pretrained(directory, torch_dtype=torch.float32, attn_implementation="eager",
                                                output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    model = oracle.wrap(base, ["k", "v", "wo"], ["wo"]).eval()
    oracle.set_vectors(model, vectors)
    with torch.no_grad():
        for i, (ids, choices) in enumerate(configs.draw_inputs(golden)):
            encoded = oracle.encode(model, ids)
            got = np.array([float(oracle.logprobs(model, encoded, c).mean()) for c in choices])
            assert np.abs(got - want[f"input.{i}.scores"]).max() < 2e-5


def inputs_as_tensors(golden, out):
    """What goes in: ids, choices, labels, batches, the recipe."""
    for i, (ids, choices) in enumerate(configs.draw_inputs(golden)):
        out[f"input.{i}.ids"] = np.array(ids)
        out |= {f"input.{i}.choice.{c}.ids": np.array(x) for c, x in enumerate(choices)}
    for i, (ids, choices, label) in enumerate(configs.draw_examples(golden)):
        out[f"example.{i}.ids"] = np.array(ids)
        out |= {f"example.{i}.choice.{c}.ids": np.array(x) for c, x in enumerate(choices)}
        out[f"example.{i}.label"] = np.array([label])
    out["tfew.indices"], out["ragged.indices"] = np.array(TFEW_BATCH), np.array(RAGGED_BATCH)
    out["tfew.weights"], out["ragged.weights"] = np.ones(3), np.array(RAGGED_WEIGHTS)
    out["steps.indices"] = np.array(configs.draw_plan(golden, STEPS, BATCH))
    out["steps.recipe"] = np.array([STEPS, BATCH, RATE, WARMUP])


def generate(golden, root):
    directory = f"{root}/{golden.name}"
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    weights = make_weights(golden, directory)
    shapes = {n: tuple(p.shape) for n, p in oracle.vectors_of(
        oracle.wrap(oracle.make_base(golden), ["k", "v", "wo"], ["wo"])).items()}
    vectors = configs.draw_vectors(golden, shapes)
    write_adapter(oracle.build(golden, weights, vectors), f"{directory}/adapter", golden.name)

    want, single, half = {}, {}, {}
    run(golden, weights, vectors, torch.float64, want)
    run(golden, weights, vectors, torch.float32, single)
    run(golden, weights, vectors, torch.bfloat16, half)
    fp32, bf16 = errors(single, want), errors(half, want)
    print(golden.name, "float32", " ".join(f"{k} {v:.2g}" for k, v in fp32.items()))
    print(golden.name, "bfloat16", " ".join(f"{k} {v:.2g}" for k, v in bf16.items()), flush=True)
    # far enough inside the tolerances that they test the engine and not the noise of this configuration
    assert fp32["lp_max"] < 2e-5 and fp32["activation"] < 3e-6 and fp32["losses"] < 5e-6
    assert fp32["grad"] < 3e-5 and fp32["final_max"] < 3e-6 and fp32["steps"] < 5e-6
    check_constant(golden, weights, vectors, want)
    if golden.source:  # large: no activations
        want = {n: x for n, x in want.items() if n.endswith((".lp", "scores", ".losses", "constant")) or ".grad." in n
                or ".final." in n}
    else:
        check_checkpoint(golden, vectors, want, directory)
        if golden.gated:
            check_forms(golden, weights, vectors, want, directory)
        with torch.no_grad():
            expect_bias(golden, oracle.build(golden, weights, vectors), want)
    inputs_as_tensors(golden, want)
    want |= {f"hf_float32.{k}": np.array([v]) for k, v in fp32.items()}
    want |= {f"hf_bfloat16.{k}": np.array([v]) for k, v in bf16.items()}
    save_file({n: np.ascontiguousarray(x, dtype=np.float32) for n, x in want.items()},
              f"{directory}/expected.safetensors")


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    root = os.path.dirname(os.path.abspath(__file__))
    for golden in configs.CONFIGS + [configs.MINI]:
        if len(sys.argv) == 1 or golden.name in sys.argv[1:]:
            generate(golden, root)


if __name__ == "__main__":
    main()
