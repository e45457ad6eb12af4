#!/usr/bin/env python3
"""Adapters and checkpoints between ia3 and the real libraries: transformers, peft, safetensors.

    run.py --psql PSQL --socket DIR --work DIR

talks to a running cluster as its superuser, in a database of its own, sets ia3.backbones for the time of the test,
and prints TAP. Everything is written below DIR, which the server's user can reach. Exit status 77 and a line that says why when
the libraries are not there.

Backbones: that of other tests (bfloat16 storage, gated, tied) and small random ones whose weights are made here: T5 v1.0
(no gate), mT5 (gated, untied, two weight files), UMT5 (a bias in every layer) and one stored in float16.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

try:
    import sentencepiece
    import torch
    from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    from transformers import (AutoModelForSeq2SeqLM, MT5Config, MT5ForConditionalGeneration, T5Config,
                              T5ForConditionalGeneration, UMT5Config, UMT5ForConditionalGeneration)
    from transformers.utils import logging
except ImportError as error:
    print(f"1..0 # SKIP {sys.executable} cannot import {error.name}")
    sys.exit(77)

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "test" / "backbone"
TOLERANCE = 1e-4  # of scores, fp32 on both sides
CHOICES = ["billing", "access", "a broken device", "delivery"]
TEXTS = ["I was charged twice for the same order.", "The password reset mail never arrives!",
         "Der Bildschirm bleibt schwarz \u2013 what now?", "ok"]
DATABASE = "ia3_interchange"
PREFIX = "base_model.model."

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.manual_seed(7)
torch.set_num_threads(1)  # the engines share the processor
count = failed = 0


def check(name, ok, note=""):
    global count, failed
    count += 1
    failed += not ok
    print(f"{'ok' if ok else 'not ok'} {count} - {name}{' # ' + str(note) if note and not ok else ''}", flush=True)


class Database:
    def __init__(self, psql, socket, name):
        self.command = [psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose",
                        "-h", socket, "-U", "postgres", "-d", name, "-f", "-"]

    def run(self, statement):
        done = subprocess.run(self.command, input="SET client_min_messages = warning;\n" + statement, text=True,
                              capture_output=True, env=os.environ | {"PGCLIENTENCODING": "UTF8"})
        return done.returncode, done.stdout.strip(), done.stderr

    def __call__(self, statement):
        status, out, err = self.run(statement)
        if status != 0:
            raise RuntimeError(f"{statement[:200]}: {err}")
        return out

    def error(self, statement):
        status, _, err = self.run(statement)
        return err if status != 0 else "no error"


def quote(text):
    return "'" + text.replace("'", "''") + "'"


def array(texts):
    return "ARRAY[" + ", ".join(map(quote, texts)) + "]"


class Backbone:
    """A checkpoint, and the model that transformers makes of it in fp32."""

    def __init__(self, name, path, db, tokenizer):
        self.name, self.path, self.db, self.tokenizer = name, path, db, tokenizer
        self.config = json.loads((path / "config.json").read_text())
        self.gated = "gated" in self.config["feed_forward_proj"]

    def load(self, path=None, dtype=torch.float32):
        return AutoModelForSeq2SeqLM.from_pretrained(path or self.path, dtype=dtype,
                                                     attn_implementation="eager").eval()

    def ids(self, text):
        return torch.tensor([self.tokenizer.encode(text) + [1]])

    @torch.no_grad()
    def library_scores(self, model):
        rows = []
        for text in TEXTS:
            for choice in CHOICES:
                labels = self.ids(choice)
                logits = model(input_ids=self.ids(text), labels=labels).logits[0].float()
                rows.append(torch.log_softmax(logits, -1).gather(1, labels[0][:, None]).mean().item())
        return torch.tensor(rows)

    def our_scores(self, task):
        """Of a task, or of the bare backbone when task is None."""
        call = f"ia3_classify({quote(task)}, t.text, {array(CHOICES)})" if task else \
            f"ia3_classify(t.text, {array(CHOICES)})"
        out = self.db(f"SET ia3.backbone = {quote(self.name)}; SELECT c.score FROM "
                      f"unnest({array(TEXTS)}) WITH ORDINALITY t(text, n), {call} c "
                      f"ORDER BY t.n, pg_catalog.array_position({array(CHOICES)}, c.choice);")
        return torch.tensor([float(line) for line in out.splitlines()], dtype=torch.float64).float()

    def check_scores(self, name, ours, theirs):
        worst = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else float("inf")
        check(f"{self.name}: {name}", worst <= TOLERANCE, f"largest difference {worst:.2e}")

    def import_file(self, task, path, config=None):
        data = path.read_bytes().hex()
        config = f", {quote(json.dumps(config))}" if config else ""
        return self.db(f"SET ia3.backbone = {quote(self.name)}; "
                       f"SELECT ia3_import({quote(task)}, decode('{data}', 'hex'){config});")

    def export(self, task):
        return bytes.fromhex(self.db(f"SELECT encode(ia3_export({quote(task)}), 'hex');"))


def export_to(backbone, task, directory):
    directory.mkdir()
    (directory / "adapter_model.safetensors").write_bytes(backbone.export(task))
    config = backbone.db(f"SELECT ia3_export_config({quote(task)});")
    (directory / "adapter_config.json").write_text(config)
    return json.loads(config)


def open_with_peft(backbone, directory):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(backbone.load(), directory).eval()
    missing = [str(w.message)[:200] for w in caught if "adapter keys" in str(w.message)]
    check(f"{backbone.name}: peft finds every vector it looks for", not missing, missing)
    return model


def new_peft(backbone, output_form):
    """A peft model with vectors far from one, some of them negative or zero."""
    targets, feedforward = (["k", "v", "wi_1"], []) if output_form else (["k", "v", "wo"], ["wo"])
    return disturb(get_peft_model(backbone.load(), IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=targets,
                                                             feedforward_modules=feedforward)).eval(), "ia3_l")


def disturb(model, part):
    for name, parameter in model.named_parameters():
        if part in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
            parameter.data.view(-1)[:2] = torch.tensor([-0.5, 0.0])
    return model


def as_stored(tensors):
    """wi_1's vectors under the names and in the shape of wo's."""
    return {n.replace(".wi_1.", ".wo."): t.reshape(1, -1) if ".wi_1." in n else t for n, t in tensors.items()}


def test_export(backbone, work):
    """Vectors trained by ia3, opened by peft."""
    rows = ", ".join(f"({quote(t)}, {quote(c)})" for t, c in zip(TEXTS, CHOICES))
    backbone.db(f"SELECT ia3_train('trained_{backbone.name}', $q$VALUES {rows}$q$, steps => 30, batch_size => 4, "
                f"learning_rate => 0.03, seed => 3, backbone => {quote(backbone.name)});")
    task = f"trained_{backbone.name}"
    directory = work / task
    config = export_to(backbone, task, directory)
    path = config["base_model_name_or_path"]
    check(f"{backbone.name}: the configuration names the backbone", path == str(backbone.path), path)
    saved = work / f"saved_{backbone.name}"
    model = open_with_peft(backbone, directory)
    bare = backbone.library_scores(backbone.load())
    scores = backbone.library_scores(model)
    check(f"{backbone.name}: training moved the scores", (scores - bare).abs().max() > 0.01)
    backbone.check_scores("peft scores an exported adapter as ia3 does", backbone.our_scores(task), scores)
    model.save_pretrained(saved)
    check(f"{backbone.name}: what peft saves again are the bytes that ia3 stores",
          (saved / "adapter_model.safetensors").read_bytes() == backbone.export(task))
    saved_config = json.loads((saved / "adapter_config.json").read_text())
    for key in ("target_modules", "feedforward_modules"):
        saved_config[key] = sorted(saved_config[key])
    check(f"{backbone.name}: and the same configuration",
          saved_config.keys() >= config.keys() and all(saved_config[k] == config[k] for k in config), saved_config)


def test_methods(backbone, work):
    """LoRA, prompts and (IA)3 with other targets trained by ia3, with several options, opened by peft, saved by it and imported."""
    rows = ", ".join(f"({quote(t)}, {quote(c)})" for t, c in zip(TEXTS, CHOICES))
    bare = backbone.library_scores(backbone.load())
    variants = {"lora": "norms => false, ", "prompt": "decoder => false, ", "lora_8_qv": "rank => 8, alpha => 4, targets => '{q,v}', norms => false, ",
                "lora_3_wo": "rank => 3, alpha => 2.5, targets => '{wi,wi_0,wo}', norms => false, ", "prompt_3": "prompt_length => 3, decoder => false, ",
                "ia3_all": "targets => '{q,k,v,o,wo}', ", "ia3_cross": "targets => '{EncDecAttention.q,EncDecAttention.v,SelfAttention.o}', "}
    for method, options in variants.items():
        task = f"{method}_{backbone.name}"
        backbone.db(f"SELECT ia3_train('{task}', $q$VALUES {rows}$q$, steps => 20, batch_size => 4, {options}"
                    f"method => '{method.split('_')[0]}', learning_rate => 0.3, seed => 3, backbone => {quote(backbone.name)});")
        export_to(backbone, task, work / task)
        model = open_with_peft(backbone, work / task)
        scores = backbone.library_scores(model)
        check(f"{backbone.name}: training {method} moved the scores", (scores - bare).abs().max() > 0.01)
        backbone.check_scores(f"peft scores {method} as ia3 does", backbone.our_scores(task), scores)
        model.save_pretrained(work / f"saved_{task}")
        saved = work / f"saved_{task}" / "adapter_model.safetensors"
        check(f"{backbone.name}: what peft saves of {method} are the bytes that ia3 stores",
              saved.read_bytes() == backbone.export(task))
        config = json.loads((saved.parent / "adapter_config.json").read_text())
        backbone.import_file(f"back_{task}", saved, config)
        backbone.check_scores(f"{method} imported again", backbone.our_scores(f"back_{task}"), scores)


def test_import(backbone, work, output_form):
    """Vectors saved by peft, with its own configuration, used by ia3."""
    form = "wi_1" if output_form else "wo"
    task = f"{form}_{backbone.name}"
    model = new_peft(backbone, output_form)
    directory = work / task
    model.save_pretrained(directory)
    file = directory / "adapter_model.safetensors"
    config = json.loads((directory / "adapter_config.json").read_text())
    check(f"{backbone.name}: an adapter of peft ({form}) is version 1",
          backbone.import_file(task, file, config) == "1")
    backbone.check_scores(f"ia3 scores an adapter of peft ({form}) as peft does", backbone.our_scores(task),
                          backbone.library_scores(model))
    back = work / f"back_{task}"
    export_to(backbone, task, back)
    if output_form:
        want = as_stored(load_file(file))
        got = load_file(back / "adapter_model.safetensors")
        check(f"{backbone.name}: peft ({form}) -> ia3 -> peft has the same bits",
              got.keys() == want.keys() and all(torch.equal(got[n], want[n]) for n in want))
    else:
        check(f"{backbone.name}: peft ({form}) -> ia3 -> peft is byte for byte the same",
              (back / "adapter_model.safetensors").read_bytes() == file.read_bytes())
    backbone.check_scores(f"the way back ({form}) scores the same", backbone.our_scores(task),
                          backbone.library_scores(open_with_peft(backbone, back)))
    return model, task


def test_parts(backbone, work):
    """Adapters of peft that train some kinds of modules, or one stack: elsewhere the backbone stays as it is."""
    parts = {"kv": (["k", "v"], []), "wo": (["wo"], ["wo"]), "encoder": (r".*encoder.*\.(k|v|wo)", r".*\.wo"),
             "all": (["q", "k", "v", "o", "wo"], ["wo"]), "cross": (["EncDecAttention.q", "EncDecAttention.o", "wo"], ["wo"])}
    for part, (targets, feedforward) in parts.items():
        task = f"{part}_only_{backbone.name}"
        config = IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=targets, feedforward_modules=feedforward)
        model = disturb(get_peft_model(backbone.load(), config).eval(), "ia3_l")
        save_and_compare(backbone, work, model, task)
    if backbone.name in ("mini", "v10"):
        loras = {"lora_qv": dict(r=4, lora_alpha=1, target_modules=["q", "v"]),
                 "lora_16": dict(r=16, lora_alpha=8, target_modules=["k", "o", "wo"], init_lora_weights="gaussian"),
                 "lora_rs": dict(r=9, lora_alpha=2, target_modules=["q", "wi", "wi_1"], use_rslora=True)}
        for name, options in loras.items():
            config = LoraConfig(task_type="SEQ_2_SEQ_LM", **options)
            model = disturb(get_peft_model(backbone.load(), config).eval(), "lora_")
            save_and_compare(backbone, work, model, f"{name}_{backbone.name}")
        config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=8, num_transformer_submodules=1)
        save_and_compare(backbone, work, get_peft_model(backbone.load(), config).eval(), f"prompt_8_{backbone.name}")


def save_and_compare(backbone, work, model, task):
    model.save_pretrained(work / task)
    config = json.loads((work / task / "adapter_config.json").read_text())
    backbone.import_file(task, work / task / "adapter_model.safetensors", config)
    backbone.check_scores(f"ia3 scores {task} as peft does", backbone.our_scores(task), backbone.library_scores(model))


def test_spellings(backbone, work, task):
    """Other names, dtypes and regular expressions for the same vectors give the same version."""
    stored = load_file(work / task / "adapter_model.safetensors")
    digest = backbone.db(f"SELECT encode(digest, 'hex') FROM ia3.adapters WHERE task = {quote(task)};")

    def digest_of(name, tensors, config=None):
        file = work / f"{name}_{backbone.name}.safetensors"
        save_file(tensors, file)
        backbone.import_file(f"{name}_{backbone.name}", file, config)
        return backbone.db(f"SELECT encode(digest, 'hex') FROM ia3.adapters WHERE task = '{name}_{backbone.name}';")

    bare = {n.removeprefix(PREFIX).removesuffix(".ia3_l"): t for n, t in stored.items()}
    check(f"{backbone.name}: names without a prefix, one dimension",
          digest_of("plain", {n + ".ia3_l": t.reshape(-1) for n, t in bare.items()}) == digest)
    if backbone.gated:
        tfew = {n.replace(".wo", ".wi_1") + ".multi_lora_b": t.reshape(-1, 1) for n, t in bare.items()}
        check(f"{backbone.name}: T-Few's names", digest_of("tfew", tfew) == digest)
    pattern = {"peft_type": "IA3", "target_modules": r".*\.(k|v|wo)", "feedforward_modules": r".*DenseReluDense\.wo$"}
    check(f"{backbone.name}: a configuration with regular expressions", digest_of("regex", stored, pattern) == digest)
    halves = {n: t.to(torch.bfloat16) for n, t in stored.items()}
    widened = {n: t.float() for n, t in halves.items()}
    check(f"{backbone.name}: bfloat16 vectors are widened exactly",
          digest_of("half", halves) == digest_of("wide", widened) != digest)


def test_merge(backbone, work, model, task):
    """The merged checkpoint in transformers, and as a backbone of its own."""
    directory = work / "out" / f"merged_{task}"
    backbone.db(f"SELECT ia3_merge({quote(task)}, {quote(str(directory))});")
    files = sorted(p.name for p in backbone.path.iterdir() if p.name != "README.md")
    check(f"{backbone.name}: a merged checkpoint has the files of its source",
          sorted(p.name for p in directory.iterdir()) == files, sorted(p.name for p in directory.iterdir()))
    merged, info = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype="auto", output_loading_info=True,
                                                         attn_implementation="eager")
    check(f"{backbone.name}: transformers loads it completely",
          not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info)
    vectors = load_file(work / task / "adapter_model.safetensors")
    source = get_peft_model(backbone.load(dtype="auto"), model.peft_config["default"])
    names = {n.replace(".default", ""): p for n, p in source.named_parameters() if "ia3_l" in n}
    assert {n: p.shape for n, p in names.items()} == {n: t.shape for n, t in vectors.items()}
    for name, parameter in names.items():
        parameter.data = vectors[name].to(torch.float32)
    want = source.merge_and_unload().state_dict()
    # as stored: what transformers holds in memory may be wider (it keeps wo of float16 files in float32)
    got = {}
    for file in directory.glob("*.safetensors"):
        got |= load_file(file)
    differing = [n for n in got if n not in want or not torch.equal(want[n].to(got[n].dtype), got[n])]
    scaled = [n.removeprefix(PREFIX).replace(".ia3_l", ".weight") for n in vectors]
    check(f"{backbone.name}: its weights are those of peft's merge_and_unload, bit for bit",
          not differing and all(n in got for n in scaled), differing[:3])
    stored_dtypes = {p.name: safe_open(p, "pt").get_slice(next(iter(safe_open(p, "pt").keys()))).get_dtype()
                     for p in directory.glob("*.safetensors")}
    source_dtypes = {p.name: safe_open(p, "pt").get_slice(next(iter(safe_open(p, "pt").keys()))).get_dtype()
                     for p in backbone.path.glob("*.safetensors")}
    check(f"{backbone.name}: and its dtype is kept", stored_dtypes == source_dtypes, stored_dtypes)
    scores = backbone.library_scores(backbone.load(directory))
    if merged.dtype == torch.float32:
        backbone.check_scores("the merged checkpoint scores the same as the adapter", scores,
                              backbone.our_scores(task))
    return directory, scores


def make_backbones(work):
    """A copy of MINI, and small random checkpoints with its tokenizer. Returns name -> directory."""
    sizes = dict(vocab_size=8192, d_model=32, d_kv=8, d_ff=40, num_heads=3, num_layers=2, num_decoder_layers=2,
                 dropout_rate=0.0, decoder_start_token_id=0)
    kinds = {
        "v10": (T5Config, T5ForConditionalGeneration, dict(feed_forward_proj="relu"), torch.bfloat16, "1GB"),
        "mt5": (MT5Config, MT5ForConditionalGeneration, dict(tie_word_embeddings=False), torch.float32, "700KB"),
        "umt5": (UMT5Config, UMT5ForConditionalGeneration, dict(tie_word_embeddings=False), torch.float32, "1GB"),
        "f16": (T5Config, T5ForConditionalGeneration, dict(feed_forward_proj="gated-gelu"), torch.float16, "1GB"),
    }
    paths = {"mini": work / "mini"}
    shutil.copytree(MINI, paths["mini"])
    for name, (config, model, extra, dtype, shard) in kinds.items():
        paths[name] = work / name
        made = model(config(**(sizes | extra), initializer_factor=0.7))
        made.to(dtype).save_pretrained(paths[name], max_shard_size=shard)
        shutil.copy(MINI / "spiece.model", paths[name])
        shutil.copy(MINI / "tokenizer_config.json", paths[name])
    for path in paths.values():  # the server runs as another user
        path.chmod(0o755)
        for file in path.iterdir():
            file.chmod(0o644)
    assert (paths["mt5"] / "model.safetensors.index.json").exists()
    return paths


def configure(db, entries, wait_for):
    db(f"ALTER SYSTEM SET ia3.backbones = {quote(', '.join(entries))};\nSELECT pg_reload_conf();")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        states = dict(line.split("|") for line in db("SELECT backbone, state FROM ia3_stat_engine;").splitlines())
        if all(states.get(name) == "ready" for name in wait_for):
            return
        if any(states.get(name) == "failed" for name in wait_for):
            break
        time.sleep(0.2)
    raise RuntimeError(db("SELECT backbone, state, message FROM ia3_stat_engine;"))


def test_refusals(db, work):
    tensors = load_file(work / "wo_mini" / "adapter_model.safetensors")
    name = next(iter(sorted(tensors)))
    cases = {
        "a vector is missing": ({n: t for n, t in tensors.items() if n != name}, "22P03"),
        "a vector too many": (tensors | {PREFIX + "lm_head.ia3_l": torch.ones(8192, 1)}, "22P03"),
        "not a number": (tensors | {name: tensors[name] * float("nan")}, "22P03"),
        "of another size": (tensors | {name: torch.ones(8, 1)}, "22P03"),
        "of whole numbers": (tensors | {name: tensors[name].to(torch.int32)}, "22P03"),
        "a LoRA": ({PREFIX + "encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": torch.ones(8, 256)}, "22P03"),
    }
    for what, (broken, state) in cases.items():
        path = work / "broken.safetensors"
        save_file(broken, path)
        error = db.error(f"SET ia3.backbone = 'mini'; SELECT ia3_import('refused', decode('{path.read_bytes().hex()}', 'hex'));")
        check(f"refused: {what}", state in error, error)
    other = work / "wo_v10" / "adapter_model.safetensors"
    check("refused: an adapter of another backbone",
          "22P03" in db.error(f"SET ia3.backbone = 'mini'; SELECT ia3_import('refused', decode('{other.read_bytes().hex()}', 'hex'));"))
    check("refused imports leave no task", db("SELECT count(*) FROM ia3.task WHERE task = 'refused';") == "0")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--psql", required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--work", required=True)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="interchange.", dir=options.work))
    work.chmod(0o755)
    (work / "out").mkdir()
    (work / "out").chmod(0o777)  # the server writes merged checkpoints here
    server = Database(options.psql, options.socket, "postgres")
    server(f"DROP DATABASE IF EXISTS {DATABASE};")
    server(f"CREATE DATABASE {DATABASE};")
    db = Database(options.psql, options.socket, DATABASE)
    db("CREATE EXTENSION ia3;")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(MINI / "spiece.model"))
    paths = make_backbones(work)
    entries = [f"{name}={path}:float32" for name, path in paths.items()]
    merged = {}
    try:
        configure(db, entries, paths)
        for name, path in paths.items():
            backbone = Backbone(name, path, db, tokenizer)
            backbone.check_scores("the bare backbone scores as in transformers", backbone.our_scores(None),
                                  backbone.library_scores(backbone.load()))
            test_export(backbone, work)
            model, task = test_import(backbone, work, False)
            if backbone.gated:
                test_import(backbone, work, True)
            test_parts(backbone, work)
            test_spellings(backbone, work, task)
            if name in ("mini", "v10"):
                test_methods(backbone, work)
            merged[f"merged_{name}"] = (backbone, *test_merge(backbone, work, model, task))
        test_refusals(db, work)
        configure(db, [f"{name}={m[1]}:float32" for name, m in merged.items()], merged)
        for name, (backbone, directory, scores) in merged.items():
            again = Backbone(name, directory, db, tokenizer)
            again.check_scores("a merged checkpoint is a backbone", again.our_scores(None), scores)
    finally:
        server.run(f"ALTER SYSTEM RESET ia3.backbones;\nSELECT pg_reload_conf();\nDROP DATABASE {DATABASE};")
        shutil.rmtree(work, ignore_errors=True)
    print(f"1..{count}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
