"""The part of scripts/bench cpu with rows of many tasks. ia3 scores them in order of arrival; transformers + peft also with
the rows sorted by task, because peft switches adapters between batches and cannot mix (IA)3 vectors within one."""

import bench_cpu_setup as setup
from bench_cpu_process import Unsupported, fastest, in_turn, progress
from bench_cpu_scoring import ATTENTIONS, TORCH, TORCH_BUDGETS
from bench_cpu_shape import best, compare, ratio_row, scores_of, text

ORDERS = ["as they came", "sorted by task"]


def peer_dtype(shape):
    """The peer's type: bfloat16 unless the processor computes that in software."""
    return "float32" if shape.o.instructions.why_not("bfloat16") else "bfloat16"


def peer(shape, report, n):
    """(worker, attention, budget) of the peer's fastest configuration with sorted rows; None if there is none."""
    found = None
    for attention in [shape.attention] if shape.attention else ATTENTIONS:
        try:
            worker = shape.torch(peer_dtype(shape), attention, n_adapters=setup.TASKS)
        except Unsupported as e:
            report.note(f"{shape.name}, mixed: {TORCH} {attention}: skipped ({e})")
            continue
        ask = lambda budget: worker.ask(f"mixed 2 {n} {shape.scores} {budget} task")[shape.o.clock]
        budget, seconds = fastest(TORCH_BUDGETS, ask)
        progress(f"mixed: {attention}: {seconds:.2f} s with {budget} tokens")
        if found and found[0] <= seconds:
            worker.close()
            continue
        if found:
            found[1].close()
        found = seconds, worker, attention, budget
    return found and found[1:]


def start_all(shape, report, n):
    """{(peer, dtype, configuration): (worker, command)}"""
    runs = {}
    for dtype in shape.o.dtype:
        try:
            runs["ia3", dtype, ""] = shape.engine(dtype, setup.TASKS), f"mixed 2 {n} {shape.scores}"
        except Unsupported as e:
            report.note(f"{shape.name}, mixed: ia3 {dtype}: skipped ({e})")
    found = peer(shape, report, n) if "torch" in shape.o.peers else None
    if found:
        worker, attention, budget = found
        for order, word in zip(ORDERS, ("arrival", "task")):
            detail = f"{attention}, {order}" + (f", {budget} tokens" if word == "task" else "")
            runs[TORCH, peer_dtype(shape), detail] = worker, f"mixed 2 {n} {shape.scores} {budget} {word}"
    return runs


def mixed(shape, report):
    n = len(shape.mixed_lengths)
    runs, scores = start_all(shape, report, n), {}

    def once(key):
        def measure():
            answer, scores[key] = scores_of(*runs[key], shape)
            return answer[shape.o.clock]
        return measure
    progress(f"{shape.name}, mixed: runs in turn")
    rates = {key: n / s for key, s in in_turn(shape.o.runs, {key: once(key) for key in runs}).items()}
    for worker in {worker for worker, _ in runs.values()}:
        worker.close()
    at = f"{shape.name}, {setup.TASKS} tasks mixed, rows of each: {n / setup.TASKS:g}: "
    reference = scores.get(("ia3", "float32", ""))
    for key, rate in rates.items():
        if reference is not None:
            compare(text(key), key[1], scores[key], reference)
        report.row(at + text(key), f"{rate:.1f} rows/s")
    ours, theirs, same = best(rates, "ia3"), best(rates, TORCH), best(rates, "ia3", peer_dtype(shape))
    for key in [k for k in rates if k[0] == TORCH]:
        ratio_row(report, at + f"ia3 {ours[1]} / {text(key)}", rates, ours, key)
    if theirs and same:
        ratio_row(report, at + f"both {peer_dtype(shape)}: ia3 / {TORCH}", rates, same, theirs)
