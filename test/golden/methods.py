#!/usr/bin/env python3
"""Writes methods/t5-relu-tied.safetensors and methods/t5-gated-untied.safetensors for test/engine/test_methods.c.

The methods that (IA)3 is compared with, on the checkpoints that generate.py left: LoRA and prompt tuning as peft
computes them, biases and scales of norms by hooks on transformers' modules, for peft has no such methods; adapters and Compacter as T-Few's modules, behind sub-layers;
prefixes as its attentions have them, trained through its network (prefix.py); projections of one vector (said.py); the weights of the
model itself (weights.py). Names are
METHOD.TENSOR (the adapter, named as the engine stores it; lora_vectors is LoRA with vectors of (IA)3), METHOD.scores.INPUT, METHOD.losses (total, lm,
unlikelihood, length_norm of the "tfew" batch), METHOD.grad.TENSOR, METHOD.curve (the losses of twenty steps of Adafactor),
METHOD.final.TENSOR (the values after them), and prefix.start.TENSOR (a new prefix). Of "full" there are no values to begin with,
because the test computes them; "fish" has a random mask, and fish.chosen is that which the examples lead to. Everything is computed in float64 and stored in float32.
t5-relu-tied has the scores only.
"""

import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, PromptTuningConfig, get_peft_model  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from transformers import Adafactor  # noqa: E402

import configs  # noqa: E402
import oracle  # noqa: E402
import prefix  # noqa: E402
import said  # noqa: E402
import weights  # noqa: E402

RANK, WIDTH, PHM_WIDTH, TOKENS, STEPS, BATCH = 4, 5, 8, 10, 20, 4
RATES = {"lora": 3e-3, "lora_vectors": 3e-3, "adapter": 3e-3, "compacter": 3e-3, "compacter++": 3e-3, "bitfit": 3e-3, "layernorm": 3e-3, "prompt": 3e-2,
         "prefix": 3e-3, "said": 3e-3, "full": 3e-3, "fish": 3e-3}
LINEARS = ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"]
TRAINED = "t5-gated-untied"
PREFIX = "base_model.model."


class Plain:
    """A model without peft, in the shape that the oracle's functions take."""

    def __init__(self, base):
        self.base = base

    def get_base_model(self):
        return self.base


def draw(rng, name, shape):
    x = rng.standard_normal(shape)
    if name.endswith((".scale", ".ia3_l", "_said")):
        return 1 + 0.3 * x
    if name == "intrinsic_parameter":
        return 0.1 * x
    return x if name == "prompt_embeddings" else 0.6 * x if len(shape) == 3 else 0.3 * x


def add_lora(base):
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=RANK, lora_alpha=1, lora_dropout=0.0, target_modules=LINEARS)
    model = get_peft_model(base, config)
    return model, {n.replace(".default", ""): p for n, p in model.named_parameters() if ".lora_" in n}


def add_scales(base, parameters):
    for name, module in base.named_modules():
        if name.endswith("layer_norm"):
            scale = torch.nn.Parameter(torch.ones(base.config.d_model))
            module.register_forward_hook(lambda m, args, out, scale=scale: out * scale)
            parameters[f"{PREFIX}{name}.scale"] = scale


def add_lora_vectors(base):
    """LoRA with (IA)3's vectors, which multiply the results of k and v and the input of wo."""
    model, parameters = add_lora(base)
    for name, module in model.named_modules():
        kind = name.split(".")[-1]
        if kind not in ("k", "v", "wo") or not hasattr(module, "lora_A"):
            continue
        n = module.in_features if kind == "wo" else module.out_features
        vector = torch.nn.Parameter(torch.ones((1, n) if kind == "wo" else (n, 1)))
        if kind == "wo":
            module.register_forward_pre_hook(lambda m, args, vector=vector: (args[0] * vector.flatten(), *args[1:]))
        else:
            module.register_forward_hook(lambda m, args, out, vector=vector: out * vector.flatten())
        parameters[f"{name}.ia3_l"] = vector
    return model, parameters


def add_layernorm(base):
    parameters = {}
    add_scales(base, parameters)
    return Plain(base), parameters


def add_adapter(base):
    """src/models/AdapterVariants/Adapters.py, Adapter, with a residual and ReLU; T5LayerFFWithAdapter calls it before dropout."""
    parameters, d = {}, base.config.d_model
    for name, module in base.named_modules():
        if name.endswith(".DenseReluDense"):
            down, up = torch.nn.Linear(d, WIDTH), torch.nn.Linear(WIDTH, d)
            module.register_forward_hook(lambda m, args, y, down=down, up=up: y + up(torch.relu(down(y))))
            at = PREFIX + name.removesuffix("DenseReluDense") + "adapter."
            parameters |= {f"{at}{part}_proj.{n}": p for part, linear in (("down", down), ("up", up))
                           for n, p in linear.named_parameters()}
    add_scales(base, parameters)
    return Plain(base), parameters


class Hypercomplex(torch.nn.Module):
    """src/models/AdapterVariants/VariantLayers.py, PHMLinear, with a rule of its own and factors of rank one."""

    def __init__(self, n_in, n_out, n=4):
        super().__init__()
        self.phm_rule = torch.nn.Parameter(torch.zeros(n, n, n))
        self.W_left = torch.nn.Parameter(torch.zeros(n, n_in // n, 1))
        self.W_right = torch.nn.Parameter(torch.zeros(n, 1, n_out // n))
        self.b = torch.nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return x @ sum(torch.kron(a, w) for a, w in zip(self.phm_rule, self.W_left @ self.W_right)) + self.b


def add_compacter(base, sublayers=("SelfAttention", "DenseReluDense")):
    """The same file's Adapters.py, HyperComplexAdapter, where configs/compacter.json says."""
    parameters, d = {}, base.config.d_model
    for name, module in base.named_modules():
        sublayer = name.split(".")[-1]
        if sublayer in sublayers:
            down, up = Hypercomplex(d, PHM_WIDTH), Hypercomplex(PHM_WIDTH, d)

            def change(m, args, y, down=down, up=up):
                """Attention returns a tuple, of which the first is its output."""
                x = y[0] if isinstance(y, tuple) else y
                x = x + up(torch.relu(down(x)))
                return (x,) + y[1:] if isinstance(y, tuple) else x
            module.register_forward_hook(change)
            at = PREFIX + name.removesuffix(sublayer) + "adapter."
            parameters |= {f"{at}{part}_sampler.{n}": p for part, layer in (("down", down), ("up", up))
                           for n, p in layer.named_parameters()}
    add_scales(base, parameters)
    return Plain(base), parameters


def add_compacter_plus(base):
    return add_compacter(base, ("DenseReluDense",))


def add_bitfit(base):
    parameters = {}
    for name, module in base.named_modules():
        if name.split(".")[-1] in LINEARS:
            module.bias = torch.nn.Parameter(torch.zeros(module.out_features))
            parameters[f"{PREFIX}{name}.bias"] = module.bias
    add_scales(base, parameters)
    return Plain(base), parameters


def add_prompt(base):
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=TOKENS, num_transformer_submodules=1,
                                prompt_tuning_init="RANDOM")
    model = get_peft_model(base, config)
    prompt = model.prompt_encoder["default"].embedding.weight
    return model, {"prompt_embeddings": prompt}


def add_prefix(base):
    shape = (prefix.LENGTH, 2 * base.config.num_heads * base.config.d_kv)
    names = [name for group in prefix.attentions(base) for name, _ in group]
    parameters = {name: torch.nn.Parameter(torch.zeros(shape)) for name in names}
    prefix.set_prefixes(base, {name: lambda p=p: p for name, p in parameters.items()})
    return Plain(base), {f"{PREFIX}{name}.prefix_direct": p for name, p in parameters.items()}


def add_said(base):
    parameters = said.parameters(base)
    said.change(base, parameters["intrinsic_parameter"], parameters["intrinsic_parameter_said"])
    return Plain(base), parameters


class Masked:
    """Some of the weights, as an adapter: positions and values. What is trained is the whole tensors, with masked gradients."""

    def __init__(self, base, positions):
        self.params, self.positions = weights.parameters(base), positions
        self.mask = torch.zeros(sum(p.numel() for p in self.params.values()), dtype=torch.bool)
        self.mask[torch.from_numpy(positions)] = True

    def clear_others(self):
        masks = self.mask.split([p.numel() for p in self.params.values()])
        for p, m in zip(self.params.values(), masks):
            p.grad *= m.reshape(p.shape)

    def adapter(self):
        ratio = np.float32(weights.KEEP_RATIO)
        return weights.split(self.positions) | {
            "fish_mask.values": weights.gather([p.detach() for p in self.params.values()], self.positions),
            "fish_mask.keep_ratio": np.array([ratio]),
            "fish_mask.keep_ratio_rest": np.array([np.float32(weights.KEEP_RATIO - float(ratio))])}

    def gradients(self):
        zeros = np.zeros(len(self.positions))
        return {"fish_mask.high": zeros, "fish_mask.low": zeros, "fish_mask.keep_ratio": np.zeros(1), "fish_mask.keep_ratio_rest": np.zeros(1),
                "fish_mask.values": weights.gather([p.grad for p in self.params.values()], self.positions)}


def run_weights(golden, method, out):
    """Scores, losses, gradients and steps with trained weights, like run and train."""
    base = oracle.fill(oracle.make_base(golden), load_file(f"{golden.name}/model.safetensors")).double()
    model, params = Plain(base), weights.parameters(base)
    examples, masked = configs.draw_examples(golden), None
    if method == "fish":
        out["fish.chosen"] = weights.mask(model, params, examples)
        n, rng = sum(p.numel() for p in params.values()), np.random.default_rng(golden.seed + 6000)
        masked = Masked(base, np.sort(rng.choice(n, int(n * weights.KEEP_RATIO), replace=False)))
        before = [p.detach().clone() for p in params.values()]
        weights.move(params)
        flat = weights.gather([p.detach() for p in params.values()], masked.positions)
        whole = torch.cat([p.reshape(-1) for p in before])
        whole[masked.mask] = torch.from_numpy(flat)
        for p, x in zip(params.values(), whole.split([p.numel() for p in before])):
            p.data = x.reshape(p.shape)
        out |= {f"fish.{n}": x for n, x in masked.adapter().items()}
    else:
        weights.move(params)
    with torch.no_grad():
        for i, (ids, choices) in enumerate(configs.draw_inputs(golden)):
            encoded = oracle.encode(model, ids)
            out[f"{method}.scores.{i}"] = np.array([float(oracle.logprobs(model, encoded, c).mean()) for c in choices])
    if golden.name != TRAINED:
        return
    for p in params.values():
        p.grad = None
    total, parts = oracle.losses(model, examples[:5], "batch")
    total.backward()
    out[f"{method}.losses"] = np.array([float(x.detach()) for x in (total, *parts)])
    grads = masked.gradients() if masked else {n: p.grad.numpy().copy() for n, p in params.items()}
    out |= {f"{method}.grad.{n}": g for n, g in grads.items()}
    clear = masked.clear_others if masked else lambda: None
    out[f"{method}.curve"] = np.array(steps(method, model, params, examples, clear))
    final = masked.adapter() if masked else {n: p.detach().numpy().copy() for n, p in params.items()}
    out |= {f"{method}.final.{n}": x for n, x in final.items()}


def through_network(base, parameters):
    """Makes the prefixes results of a network; its parameters, and a function that computes the prefixes."""
    def full(name):
        return f"{PREFIX}{name}.prefix_direct"
    network = prefix.Network(base, {name: parameters[full(name)].detach() for group in prefix.attentions(base) for name, _ in group})
    prefix.set_prefixes(base, network.outputs)
    return network.parameters, lambda: {full(name): output().detach() for name, output in network.outputs.items()}


def encode_behind(prompt):
    def encode(model, ids):
        encoder = oracle.bare(model).encoder
        x = torch.cat([prompt, encoder.embed_tokens(torch.tensor(ids))])
        return encoder(inputs_embeds=x.unsqueeze(0))[0]
    return encode


def peft_score(model, ids, choice):
    """The same by peft's own forward pass."""
    out = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                decoder_input_ids=torch.tensor([[0] + choice[:-1]]))
    return float(torch.log_softmax(out.logits[0], -1)[torch.arange(len(choice)), torch.tensor(choice)].mean())


def run(golden, method, out):
    base = oracle.fill(oracle.make_base(golden), load_file(f"{golden.name}/model.safetensors")).double()
    for p in base.parameters():
        p.requires_grad_(False)
    if method == "prefix":
        out |= {f"prefix.start.{PREFIX}{n}.prefix_direct": x for n, x in prefix.fresh(base).items()}
    model, parameters = {"lora": add_lora, "lora_vectors": add_lora_vectors, "adapter": add_adapter, "compacter": add_compacter,
                         "compacter++": add_compacter_plus, "bitfit": add_bitfit, "layernorm": add_layernorm,
                         "prompt": add_prompt, "prefix": add_prefix, "said": add_said}[method](base)
    rng = np.random.default_rng(golden.seed + 5000)
    for name in sorted(parameters):
        p = parameters[name]
        value = draw(rng, name, tuple(p.shape)).astype(np.float32)
        out[f"{method}.{name}"] = value
        p.data = torch.from_numpy(value).double()
        p.requires_grad_(True)
    oracle.encode = encode_behind(parameters["prompt_embeddings"]) if method == "prompt" else plain_encode
    with torch.no_grad():
        for i, (ids, choices) in enumerate(configs.draw_inputs(golden)):
            encoded = oracle.encode(model, ids)
            scores = [float(oracle.logprobs(model, encoded, c).mean()) for c in choices]
            if method in ("lora", "lora_vectors", "prompt") and not base.config.tie_word_embeddings:
                assert np.allclose(scores, [peft_score(model, ids, c) for c in choices], atol=1e-6)
            out[f"{method}.scores.{i}"] = np.array(scores)
    if golden.name == TRAINED:
        train(golden, method, model, parameters, out)


def steps(method, model, parameters, examples, clear=lambda: None):
    """Takes steps of the optimizer with four examples each, all in turn; the losses before them."""
    trained, results = list(parameters.values()), dict
    if method == "prefix":
        trained, results = through_network(model.get_base_model(), parameters)
    optimizer = Adafactor(trained, lr=RATES[method], weight_decay=0.0,
                          scale_parameter=method != "prompt", relative_step=False, warmup_init=False)
    losses = []
    schedule = oracle.falling(optimizer)
    for step in range(STEPS):
        batch = [(BATCH * step + k) % len(examples) for k in range(BATCH)]
        optimizer.zero_grad()
        loss = oracle.losses(model, [examples[i] for i in batch], "batch")[0]
        loss.backward()
        losses.append(float(loss.detach()))
        clear()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    for name, value in results().items():
        parameters[name].data = value
    return losses


def train(golden, method, model, parameters, out):
    examples = configs.draw_examples(golden)
    total, parts = oracle.losses(model, examples[:5], "batch")
    total.backward()
    out[f"{method}.losses"] = np.array([float(x.detach()) for x in (total, *parts)])
    out |= {f"{method}.grad.{n}": p.grad.numpy().copy() for n, p in parameters.items()}
    out[f"{method}.curve"] = np.array(steps(method, model, parameters, examples))
    out |= {f"{method}.final.{n}": p.detach().numpy().copy() for n, p in parameters.items()}


plain_encode = oracle.encode
os.chdir(os.path.dirname(os.path.abspath(__file__)))
os.makedirs("methods", exist_ok=True)
for golden in configs.CONFIGS:
    if golden.name in sys.argv[1:] or (len(sys.argv) == 1 and golden.name in ("t5-relu-tied", TRAINED)):
        out = {}
        with oracle.precision(torch.float64):
            for method in RATES:
                oracle.encode = plain_encode
                (run_weights if method in ("full", "fish") else run)(golden, method, out)
        save_file({n: np.ascontiguousarray(x, dtype=np.float32) for n, x in out.items()},
                  f"methods/{golden.name}.safetensors")
        print(golden.name, len(out), "tensors")
