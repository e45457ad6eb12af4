"""The parts of scripts/bench cpu without peers: memory of adapters, an idle engine, agreement of data types on real rows."""

import csv
import hashlib
import json
import os
import random
import subprocess
import tempfile
import time

import numpy as np
import sentencepiece

import bench_cpu_setup as setup
from bench_cpu_process import Unsupported, Worker, cpu_seconds, status
from bench_cpu_shape import Shape
from engine_client import Engine

HERE = os.path.dirname(os.path.abspath(__file__))
MINI = f"{HERE}/../models/ia3-mini"
ADAPTERS = 1000
TRAINING_STEPS = 100


class Server:
    """`ia3_engine serve`, ready."""

    def __init__(self, o, backbone, *options):
        self.folder = tempfile.TemporaryDirectory()
        reading, writing = os.pipe()
        path = f"{self.folder.name}/socket"
        self.process = subprocess.Popen([f"{o.build}/ia3_engine", "serve", "--name", "bench", "--backbone", backbone, "--socket", path,
                                         "--threads", str(o.threads), "--status-fd", str(writing), *options],
                                        pass_fds=[writing], stderr=subprocess.DEVNULL)
        os.close(writing)
        with os.fdopen(reading) as lines:
            for line in lines:
                if line.startswith("ready"):
                    break
            else:
                raise Unsupported("the engine does not start")
            self.client = Engine(path)
            self.pid = self.process.pid

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


def adapters(o, report):
    """The memory that 1,000 adapters of the first shape add to a running engine when each has been used."""
    shape = Shape(o, o.shape[0])
    server = Server(o, shape.path, "--adapter-cache-size", str(4 << 30))
    digests, bytes_each = [], 4 * sum(n for _, n, _ in setup.vectors_of(shape.config))
    with open(f"{shape.adapters[0]}/adapter_model.safetensors", "rb") as f:
        file = bytearray(f.read())

    def put(i):
        file[-4:] = np.float32(1 + i / 4096).tobytes()  # the last vector's last element
        digests.append(hashlib.sha256(file).digest())
        server.client.put_adapter(digests[-1], b"ia3", b"", bytes(file))

    def use(which):
        rows = [(k, 0, b"yes") for k in range(len(which))]
        server.client.score_all([server.client.score_payload(64, [digests[i] for i in which], [[b"yes", b"no"]], rows)], 1)
    for i in range(10):
        put(i)
    use(range(10))
    before = status(server.pid, "VmRSS")
    for i in range(10, 10 + ADAPTERS):
        put(i)
        if i % 10 == 9:
            use(range(i - 9, i + 1))
    grown = status(server.pid, "VmRSS") - before
    server.close()
    ratio = grown / (ADAPTERS * bytes_each)
    report.row(f"{shape.name}: memory of {ADAPTERS} adapters resident / their vectors",
               f"{grown / 1e6:.0f} / {ADAPTERS * bytes_each / 1e6:.0f} MB", ratio, "≤ 1.05", ratio <= 1.05)


def idle(o, report):
    """CPU time of an engine that has computed something and is now idle."""
    server = Server(o, MINI)
    payload = server.client.score_payload(64, [bytes(32)], [[b"yes", b"no"]], [(0, 0, b"is it?")] * 8)
    server.client.score_all([payload] * 20, 1)
    time.sleep(0.5)
    before = cpu_seconds(server.pid)
    time.sleep(5)
    used = cpu_seconds(server.pid) - before
    server.close()
    report.row("engine idle for 5 s: processor time", f"{used:.2f} s", None, "0", used == 0)


# --- agreement ---

def raft_tasks(data, pieces):
    """{task: (rows of ids and label, labels)} of all labelled rows; half of them, drawn, are for training."""
    tasks = {}
    for task in sorted(os.listdir(f"{data}/raft")) if os.path.isdir(f"{data}/raft") else []:
        with open(f"{data}/raft/{task}/train.csv", newline="") as f:
            records = list(csv.DictReader(f))
        labels = sorted({r["Label"] for r in records})
        rows = []
        for r in records:
            text = " ".join(f"{k}: {v.strip()}" for k, v in r.items() if k not in ("Label", "ID") and v.strip())
            rows.append({"ids": setup.tokenize(pieces, f"{text} Label:"), "task": 0, "label": labels.index(r["Label"])})
        random.Random(11).shuffle(rows)
        tasks[task] = rows, [setup.tokenize(pieces, l.replace("_", " ")) for l in labels]
    return tasks


def write_task(path, rows, labels):
    half = len(rows) // 2
    batches = []
    for epoch in range(8):
        order = list(range(half))
        random.Random(epoch).shuffle(order)
        batches += [order[i:i + setup.BATCH] for i in range(0, half - setup.BATCH + 1, setup.BATCH)]
    with open(path, "w") as f:
        json.dump({"rows": rows, "choices": {"train": [labels], "all": [labels]}, "batches": batches}, f)


def task_engine(o, dtype, inputs, *adapter):
    return Worker(f"agreement: {dtype}", [f"{o.build}/bench/bench_engine", "score", "--backbone", MINI, "--choices", "-", "--dtype", dtype,
                          "--threads", str(o.threads), inputs, *adapter], f"score all 1 {o.work}/scores")


def agreement(o, report):
    """Predicted choices of ia3-mini with adapters trained on half of RAFT's labelled rows, against float32."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{MINI}/spiece.model")
    tasks = raft_tasks(o.data, pieces)
    if not tasks:
        report.note("agreement on real rows: skipped (no RAFT data; --data)")
        return
    dtypes = [d for d in o.dtype if d != "float32"]
    same, clear, total = {}, {}, 0  # same, clear: of the types that there are
    inputs, adapter = f"{o.work}/task.json", f"{o.work}/task.safetensors"
    for rows, labels in tasks.values():
        write_task(inputs, rows, labels)
        trainer = task_engine(o, "float32", inputs)
        trainer.ask(f"train {TRAINING_STEPS} 0 {adapter}")
        trainer.close()
        scores = {}
        for dtype in ["float32", *dtypes]:
            try:
                worker = task_engine(o, dtype, inputs, adapter)
            except Unsupported:
                continue
            worker.ask(f"score all {len(rows)} {o.work}/scores")
            worker.close()
            scores[dtype] = np.fromfile(f"{o.work}/scores").reshape(len(rows), len(labels))
        ordered = np.sort(scores["float32"], 1)
        margin = ordered[:, -1] - ordered[:, -2]
        for dtype in dtypes:
            if dtype in scores:
                equal = scores[dtype].argmax(1) == scores["float32"].argmax(1)
                same[dtype] = same.get(dtype, 0) + int(equal.sum())
                clear[dtype] = clear.get(dtype, 0) + int((~equal & (margin > 0.1)).sum())
        total += len(rows)
    for dtype in same:
        report.row(f"ia3-mini, trained: {dtype} predicts what float32 does", f"{same[dtype]} of {total} rows",
                   same[dtype] / total, 0.99)
        report.note(f"{dtype}: of the rows that differ, {clear[dtype]} had a margin above 0.1 in float32")


def engine_parts(o, report):
    for name, part in (("adapters", adapters), ("idle", idle), ("agreement", agreement)):
        if name in o.only and not report.late(name):
            with report.part(name):
                part(o, report)
