"""transformers + peft as a peer of bench_gpu.c: the same commands on standard input, the same JSON in return.

    bench_gpu_torch.py --config CONFIG.json --device cuda [--tokens 103]

The backbone has random weights, made on the device, in bfloat16; attention is PyTorch's scaled_dot_product_attention
where this version of transformers has it for T5. Scoring is T-Few's: the input is encoded once, the encoder's output is
repeated for each choice, and the decoder runs over all choices with teacher forcing. Training uses T-Few's three losses, its
Adafactor and its schedule, with the configuration's dropout. All inputs have the same length, so nothing is padded.

    open                      what there is: versions, the device, attention, bytes of the weights
    rate N                    a matrix product of N x N with N x N in bfloat16, repeated
    score CHOICES ROWS S      batches of ROWS rows for S seconds
    train STEPS WARM CHOICES VECTORS    VECTORS: their type, float32 (peft's choice) or bfloat16
    memory                    the most that was allocated since the last call, in bytes
"""

import argparse
import json
import sys
import time

import torch
import transformers
from peft import IA3Config, TaskType, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

EXAMPLES, BATCH, CHOICE_TOKENS = 50, 8, 3


class Peer:
    def __init__(self, config, device, tokens):
        self.device = torch.device(device)
        self.tokens = tokens
        with open(config) as f:
            self.config = T5Config(**json.load(f))
        self.random = torch.Generator(device=self.device)
        self.random.manual_seed(1)
        self.model = None

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def build(self):
        if self.model is not None:
            return
        torch.set_default_dtype(torch.bfloat16)
        with self.device:
            for self.attention in ("sdpa", "eager"):
                try:
                    self.config._attn_implementation = self.attention
                    t5 = T5ForConditionalGeneration(self.config)
                    break
                except (ValueError, ImportError) as problem:  # this version has no such attention for T5
                    if self.attention == "eager":
                        raise problem
            with torch.no_grad():
                t5.lm_head.weight.mul_(self.config.d_model**-0.5)  # else log-probabilities are in the hundreds
            adapter = IA3Config(task_type=TaskType.SEQ_2_SEQ_LM, target_modules=["k", "v", "wo"],
                                feedforward_modules=["wo"])
            self.model = get_peft_model(t5, adapter, autocast_adapter_dtype=False)
        torch.set_default_dtype(torch.float32)
        self.t5 = self.model.get_base_model()
        self.vectors = [p for n, p in self.model.named_parameters() if "ia3_l" in n]
        self.model.eval()

    def open(self):
        started = time.perf_counter()
        self.build()
        self.synchronize()
        import peft

        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return {"seconds": time.perf_counter() - started, "device": name, "attention": self.attention,
                "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, "
                            f"peft {peft.__version__}",
                "weights": sum(p.numel() * p.element_size() for p in self.model.parameters())}

    @torch.inference_mode()
    def rate(self, n):
        a = torch.randn(n, n, device=self.device, dtype=torch.bfloat16, generator=self.random)
        b = torch.randn(n, n, device=self.device, dtype=torch.bfloat16, generator=self.random)
        out = a @ b
        count, seconds = 4, 0.0
        while seconds < 0.5:
            count *= 2
            self.synchronize()
            started = time.perf_counter()
            for _ in range(count):
                torch.mm(a, b.t(), out=out)
            self.synchronize()
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "flops": 2.0 * n**3 * count}

    def random_ids(self, rows, length):
        ids = torch.randint(3, self.config.vocab_size, (rows, length), device=self.device, generator=self.random)
        ids[:, -1] = self.config.eos_token_id
        return ids

    def log_probabilities(self, ids, choices):
        """[rows, choices, tokens] of each row's choices [n, tokens]."""
        rows, n = len(ids), len(choices)
        hidden = self.t5.encoder(input_ids=ids)[0].repeat_interleave(n, 0)
        labels = choices.repeat(rows, 1)
        starts = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], 1)
        logits = self.t5(encoder_outputs=(hidden,), decoder_input_ids=starts, use_cache=False).logits.float()
        lp = logits.gather(2, labels[:, :, None])[:, :, 0] - logits.logsumexp(2)
        return lp.view(rows, n, -1)

    @torch.inference_mode()
    def score(self, n_choices, rows, least):
        self.build()
        self.model.eval()
        choices = self.random_ids(n_choices, CHOICE_TOKENS)
        ids = self.random_ids(rows, self.tokens)
        scores = self.log_probabilities(ids, choices).mean(2).cpu()  # what is set up once is not timed
        if not scores.isfinite().all():
            raise ValueError("scores are not finite")
        batches, seconds = 0, 0.0
        started = time.perf_counter()
        while seconds < least or batches < 2:
            scores = self.log_probabilities(ids, choices).mean(2).cpu()
            batches += 1
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "rows": rows * batches, "batch_rows": rows}

    def losses(self, ids, choices, gold):
        lp = self.log_probabilities(ids, choices)
        is_gold = torch.arange(len(choices), device=self.device)[None, :] == gold[:, None]
        lm = -lp[is_gold].mean()
        unlikelihood = -torch.log(1.01 - lp[~is_gold].exp()).mean()
        return lm + unlikelihood + torch.nn.functional.cross_entropy(lp.mean(2), gold)

    def train(self, steps, warm, n_choices, vectors):
        self.build()
        self.model.train()
        self.model.requires_grad_(False)
        for p in self.vectors:
            p.data = torch.ones_like(p, dtype=getattr(torch, vectors))
            p.requires_grad_(True)
        optimizer = transformers.Adafactor(self.vectors, lr=3e-3, scale_parameter=True, relative_step=False,
                                           warmup_init=False)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, 60, 1000)
        inputs = self.random_ids(EXAMPLES, self.tokens)
        choices = self.random_ids(n_choices, CHOICE_TOKENS)
        labels = torch.arange(EXAMPLES, device=self.device) % n_choices
        for k in range(warm + steps):
            if k == warm:
                self.synchronize()
                started = time.perf_counter()
            batch = torch.arange(k * BATCH, (k + 1) * BATCH, device=self.device) % EXAMPLES
            loss = self.losses(inputs[batch], choices, labels[batch])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.vectors, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        self.synchronize()
        seconds = time.perf_counter() - started
        for p in self.vectors:
            p.data = p.data.to(torch.bfloat16)
            p.requires_grad_(False)
        if not loss.isfinite():
            raise ValueError("the loss is not finite")
        return {"seconds": seconds, "steps": steps, "last_loss": loss.item()}

    def memory(self):
        if self.device.type != "cuda":
            return {}
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return {"used": peak}

    def command(self, name, *a):
        if name == "open":
            return self.open()
        if name == "rate":
            return self.rate(int(a[0]))
        if name == "score":
            return self.score(int(a[0]), int(a[1]), float(a[2]))
        if name == "train":
            return self.train(int(a[0]), int(a[1]), int(a[2]), a[3])
        if name == "memory":
            return self.memory()
        raise ValueError(f"unknown command: {name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=103)
    options = parser.parse_args()
    reply = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    peer = Peer(options.config, options.device, options.tokens)
    for line in sys.stdin:
        words = line.split()
        if words[:1] == ["quit"]:
            break
        try:
            answer = peer.command(*words)
        except Exception as problem:  # out of memory included: the caller tries a smaller batch
            answer = {"error": f"{type(problem).__name__}: {problem}"[:400]}
            if peer.device.type == "cuda":
                torch.cuda.empty_cache()
        print(json.dumps(answer), file=reply, flush=True)


if __name__ == "__main__":
    main()
