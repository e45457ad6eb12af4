"""The training part of scripts/bench cpu: steps of the recipe on the same batches."""

import sys

import bench_cpu_setup as setup
from bench_cpu_options import DTYPES
from bench_cpu_process import Unsupported, fastest, in_turn, progress
from bench_cpu_scoring import ATTENTIONS, TORCH
from bench_cpu_shape import limit_row, ratio_rows, text

# largest relative difference of the loss from ia3's in float32
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
LIMIT_GOALS = {"float32": 0.65, "bfloat16": 0.6}


def start(shape, report, key, make, modes):
    """(seconds of a step, worker, mode) with the faster mode; None where there is no such configuration."""
    try:
        worker = make()
    except Unsupported as e:
        report.note(f"{shape.name}, training: {text(key)}: skipped ({e})")
        return None
    worker.ask(f"train 1 0.1 - {modes[0]}")
    mode, seconds = fastest(modes, lambda m: worker.ask(f"train 1 0.1 - {m}")[shape.o.clock])
    progress(f"training: {text(key)}: {seconds:.2f} s a step, {mode}")
    return seconds, worker, mode


def start_all(shape, report):
    """{(peer, dtype, configuration): (worker, mode)}: of the peer's attentions and modes the fastest of each type."""
    chosen = {}
    for dtype in shape.o.dtype:
        key = "ia3", dtype, ""
        started = start(shape, report, key, lambda: shape.engine(dtype), ["plain"]) if dtype != "int8" else None
        if started:
            chosen[key] = started[1:]
    why_not = shape.o.instructions.why_not("bfloat16")
    for dtype in DTYPES[:2] if "torch" in shape.o.peers else []:
        if dtype == "bfloat16" and why_not:
            report.note(f"{shape.name}, training: {TORCH} in bfloat16 and under autocast: skipped ({why_not})")
            continue
        ways = {}
        for attention in ATTENTIONS:
            key = TORCH, dtype, attention
            started = start(shape, report, key, lambda: shape.torch(dtype, attention),
                            ["plain"] if why_not else ["plain", "autocast"])
            if started:
                ways[key] = started
            for slower in sorted(ways, key=lambda k: ways[k][0])[1:]:
                ways.pop(slower)[1].close()
        for (name, dtype, attention), (_, worker, mode) in ways.items():
            chosen[name, dtype, attention + (", autocast" if mode == "autocast" else "")] = worker, mode
    return chosen


def compare_losses(chosen):
    """Without dropout all compute the same: the losses of the third step have to agree."""
    losses = {key: worker.ask("train 3 0 - plain")["loss"] for key, (worker, _) in chosen.items()}
    reference = losses.get(("ia3", "float32", ""))
    for key, loss in losses.items():
        if reference is not None and not abs(loss - reference) <= TOLERANCE[key[1]] * abs(reference):
            sys.exit(f"{text(key)}: the loss of the third step is {loss}, ia3's in float32 {reference}")


def measure(shape, chosen):
    """({key: steps per second}, {key: last answer})"""
    o, answers = shape.o, {}

    def once(key):
        def run():
            worker, mode = chosen[key]
            answers[key] = worker.ask(f"train {o.steps} 0.1 - {mode}")
            return answers[key][o.clock]
        return run
    progress(f"{shape.name}, training: runs in turn")
    seconds = in_turn(o.runs, {key: once(key) for key in chosen})
    return {key: o.steps / s for key, s in seconds.items()}, answers


def training(shape, report):
    chosen = start_all(shape, report)
    compare_losses(chosen)
    rates, answers = measure(shape, chosen)
    at = f"{shape.name}, training, batch {setup.BATCH}: "
    for key, rate in rates.items():
        report.row(at + text(key), f"{rate:.3f} steps/s")
    for worker, _ in chosen.values():
        worker.close()
    ratio_rows(report, at, rates, TORCH, 3 if (shape.name, shape.o.instructions.name) == ("base", "avx2") else None, digits=3)
    for dtype in DTYPES[:2]:
        key = ("ia3", dtype, "")
        if key in rates:
            limit_row(shape, report, at, dtype, answers[key]["products"], shape.o.steps / rates[key],
                      LIMIT_GOALS[dtype] if shape.name == "base" else None)
    for key, (worker, _) in chosen.items():
        report.row(at + f"{text(key)}: memory at most", f"{worker.peak / 1e6:.0f} MB")
