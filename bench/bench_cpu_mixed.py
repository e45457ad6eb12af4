"""The part of scripts/bench cpu with rows of many tasks. ia3 scores them in order of arrival; transformers + peft also with
the rows sorted by task, because peft switches adapters between batches and cannot mix (IA)3 vectors within one. CTranslate2
and onnxruntime have merged vectors, so they would need a model for each task."""

import bench_cpu_setup as setup
from bench_cpu_peers import ATTENTIONS, TORCH
from bench_cpu_process import Unsupported, fastest, in_turn, progress
from bench_cpu_shape import best, compare, digits, ratio_row, scores_of, text

ORDERS = ["as they came", "sorted by task"]
BUDGETS = ["512", "2048"]


def peer_dtype(shape):
    """The peer's type: bfloat16 unless the processor computes that in software."""
    return "float32" if shape.o.instructions.why_not("bfloat16") else "bfloat16"


def peer(shape, report, n):
    """(worker, attention, budget) of the peer's fastest configuration with sorted rows; None if there is none."""
    found = None
    for attention in ATTENTIONS:
        try:
            worker = shape.torch(peer_dtype(shape), attention, n_adapters=setup.TASKS)
        except Unsupported as e:
            report.note(f"{shape.label}, mixed: {TORCH} {attention}: skipped ({e})")
            continue
        # with few rows of a task, all fit into one batch anyway
        budgets = BUDGETS if n > 4 * setup.TASKS else BUDGETS[1:]
        took = fastest(budgets, lambda b: worker.ask(f"mixed 2 {n} {shape.scores} {b} task")[shape.o.clock])
        budget = min(took, key=took.get)
        progress(f"mixed: {attention}: {took[budget]:.2f} s with {budget} tokens")
        if found and found[0] <= took[budget]:
            worker.close()
            continue
        if found:
            found[1].close()
        found = took[budget], worker, attention, budget
    return found and found[1:]


def start_all(shape, report, n):
    """{(peer, dtype, configuration): (worker, command)}"""
    runs = {}
    for dtype in shape.o.dtype:
        try:
            runs["ia3", dtype, ""] = shape.engine(dtype, setup.TASKS), f"mixed 2 {n} {shape.scores}"
        except Unsupported as e:
            report.note(f"{shape.label}, mixed: ia3 {dtype}: skipped ({e})")
    found = peer(shape, report, n) if "torch" in shape.o.peers else None
    if found:
        worker, attention, budget = found
        for order, word in zip(ORDERS, ("arrival", "task")):
            detail = f"{attention}, {order}" + (f", {budget} tokens" if word == "task" else "")
            runs[TORCH, peer_dtype(shape), detail] = worker, f"mixed 2 {n} {shape.scores} {budget} {word}"
    return runs


def mixed_rows(shape, report):
    n = shape.mixed_rows
    runs, scores = start_all(shape, report, n), {}

    def once(key):
        def measure():
            answer, scores[key] = scores_of(*runs[key], shape)
            return answer[shape.o.clock]
        return measure
    progress(f"{shape.label}, mixed: runs in turn")
    seconds, made = in_turn(shape.o.runs, {key: once(key) for key in runs}, shape.seconds)
    report.runs(f"{shape.label}, mixed", made, shape.o.runs)
    rates = {key: n / s for key, s in seconds.items()}
    for worker in {worker for worker, _ in runs.values()}:
        worker.close()
    at = f"{shape.label}, {setup.TASKS} tasks mixed, rows of each: {n / setup.TASKS:g}: "
    reference = scores.get(("ia3", "float32", ""))
    for key, rate in rates.items():
        if reference is not None:
            compare(text(key), key[1], scores[key], reference)
        report.row(at + text(key), f"{digits(rate)} rows/s")
    ours, theirs, same = best(rates, "ia3"), best(rates, TORCH), best(rates, "ia3", peer_dtype(shape))
    for key in [k for k in rates if k[0] == TORCH]:
        ratio_row(report, at + f"ia3 {ours[1]} / {text(key)}", rates, ours, key)
    if theirs and same:
        ratio_row(report, at + f"both {peer_dtype(shape)}: ia3 / {TORCH}", rates, same, theirs)


def mixed(shape, report):
    """On one length: that of RAFT's rows, or the first one."""
    what = f"{shape.name}, {shape.o.tokens[0]} tokens, many tasks"
    if report.late(what):
        return
    with report.part(what):
        shape.use(shape.o.tokens[0])
        mixed_rows(shape, report)
