#!/usr/bin/env python3
"""Sessions and training while everything goes wrong (scripts/bench soak).

sessions: 100 sessions repeat all kinds of statements for a minute, while the engine is killed twice and stopped twice (once
for longer than ia3.hang_timeout) and ten queries a second are cancelled. A statement has to give the right answer or one of
the errors that these events may cause. The anonymous memory of the engine and of the backends must not grow.

resume: a pre-training run is interrupted 50 times at random, by the death of its engine, by the end of its backend, by a
cancel and by a crash of the server. Its vectors have to be those of an uninterrupted run.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import time

from bench_batching import CHOICES, Cluster, WORDS, report
from bench_hostile import Load

# connection failure, cannot connect now, not in the prerequisite state (restarting), query cancelled
ALLOWED = {"08006", "57P03", "55000", "57014"}

SET_UP = """
CREATE EXTENSION ia3;
CREATE TABLE rows (id int PRIMARY KEY, body text, answer text);
CREATE TABLE shots (text text, label text);
"""
# Every statement that ends well prints lines of which the first word is "right" or "wrong".
MIXED = {
    "single": """
        SELECT CASE ia3_predict('soak', body) WHEN answer THEN 'right' ELSE 'wrong' END
          FROM rows WHERE id = (random() * 999)::int;""",
    "scan": """
        SELECT CASE c.choice WHEN r.answer THEN 'right' ELSE 'wrong' END
          FROM (SELECT * FROM rows ORDER BY random() LIMIT 50) r, ia3_classify('soak', r.body) c WHERE c.rank = 1;""",
    "choices": """
        SELECT CASE count(*) WHEN 300 THEN 'right' ELSE 'wrong' END
          FROM ia3_classify('word ' || pg_backend_pid(), (SELECT array_agg('choice ' || g) FROM generate_series(1, 300) g));""",
    "generation": "SELECT CASE ia3_generate('soak', 'refund for the order', 8) IS NULL WHEN true THEN 'wrong' ELSE 'right' END;",
    "evaluation": """
        SELECT CASE WHEN accuracy BETWEEN 0 AND 1 THEN 'right' ELSE 'wrong' END
          FROM ia3_evaluate('soak', 'SELECT text, label FROM shots');""",
    "training": """
        SELECT CASE WHEN ia3_train('trained' || pg_backend_pid(), 'SELECT text, label FROM shots', steps => 3, seed => 1) > 0
               THEN 'right' ELSE 'wrong' END;
        SELECT CASE count(*) WHEN 0 THEN 'wrong' ELSE 'right' END
          FROM (SELECT ia3_drop(task) FROM ia3.task WHERE task = 'trained' || pg_backend_pid()) d
         HAVING count(*) > 0;""",
    "long": """
        SELECT CASE WHEN ia3_predict(repeat('word ' || pg_backend_pid() || ' ', 2000), ARRAY['good', 'bad']) IN ('good', 'bad')
               THEN 'right' ELSE 'wrong' END;""",
    "views": """
        SELECT CASE count(*) WHEN 1 THEN 'right' ELSE 'wrong' END FROM ia3_stat_engine;
        SELECT CASE WHEN count(*) > 0 THEN 'right' ELSE 'wrong' END FROM ia3.adapters;""",
}
PRETRAIN = ("CALL ia3_pretrain('{task}', 'SELECT ''shots'' AS task, text, label FROM shots ORDER BY text', steps => {steps},"
            " seed => 1, checkpoint_every => 2)")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bindir", required=True)
    p.add_argument("--socket", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--clients", type=int, default=100)
    p.add_argument("--seconds", type=int, default=60, help="of the sessions; at least 10")
    p.add_argument("--interruptions", type=int, default=50)
    p.add_argument("--steps", type=int, default=200, help="of the pre-training run")
    p.add_argument("--only", default="sessions,resume", help="parts to run")
    options = p.parse_args()
    if options.seconds < 10:
        p.error("--seconds must be at least 10")  # the engine is stopped, and found to be, within a tenth of that
    return options


def anonymous_kb(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return None


def engine_pid(cluster):
    return cluster.sql("SELECT pid FROM ia3_stat_engine WHERE state = 'ready'")


def sample(cluster):
    """(engine, mean of the clients' backends) in kB; None where there is none."""
    pids = cluster.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'load'").split()
    sizes = [s for s in map(anonymous_kb, pids) if s is not None]
    engine = engine_pid(cluster)
    return anonymous_kb(engine) if engine else None, statistics.mean(sizes) if sizes else None


def load(cluster):
    rng = random.Random(3)
    cluster.sql(SET_UP)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(4, 60))) for _ in range(1000)]
    cluster.sql("INSERT INTO rows VALUES " + ",".join(f"({i},'{t}')" for i, t in enumerate(texts)))
    shots = ",".join(f"('{' '.join(rng.choices(WORDS, k=20))}','{CHOICES[i % 4]}')" for i in range(20))
    cluster.sql(f"INSERT INTO shots VALUES {shots}")
    cluster.sql("SELECT ia3_train('soak', 'SELECT text, label FROM shots', steps => 5, seed => 1);"
                "UPDATE rows SET answer = ia3_predict('soak', body)")


class Trouble:
    """Kills and stops the engine when it is time for that."""

    # (share of the time, what happens); the second stop is for the watchdog to end
    PLAN = [(0.30, "kill"), (0.42, "stop"), (0.45, "continue"), (0.55, "kill"), (0.65, "stop")]

    def __init__(self, cluster):
        self.cluster, self.next, self.stopped = cluster, 0, None
        self.kills = self.stops = 0

    def turn(self, elapsed):
        if self.next == len(self.PLAN) or elapsed < self.PLAN[self.next][0]:
            return
        what = self.PLAN[self.next][1]
        engine = self.stopped if what == "continue" else engine_pid(self.cluster)
        if not engine:
            return
        try:
            os.kill(int(engine), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}[what])
        except ProcessLookupError:
            if what != "continue":  # the watchdog was faster than the end of a stop
                return
        self.stopped = engine
        self.kills += what == "kill"
        self.stops += what == "stop"
        self.next += 1


def sessions(cluster, options):
    cluster.sql(f"ALTER SYSTEM SET ia3.hang_timeout = '{max(1, options.seconds // 12)}s'")
    cluster.sql("SELECT pg_reload_conf()")
    names = list(MIXED)
    mixed = {f"{i}": "\n".join(MIXED[n] for n in names[i:] + names[:i]) for i in range(len(names))}
    background = Load(cluster, "postgres", options.clients, mixed, verbosity="sqlstate")
    canceller = cluster.start(
        f"DO $$BEGIN FOR i IN 1 .. {options.seconds * 10} LOOP PERFORM pg_sleep(0.1), pg_cancel_backend(pid) FROM"
        " (SELECT pid FROM pg_stat_activity WHERE application_name = 'load' AND state = 'active' ORDER BY random() LIMIT 1) s;"
        " PERFORM pg_stat_clear_snapshot(); END LOOP; END$$")
    trouble, early, late, elapsed, started = Trouble(cluster), [], [], 0, time.monotonic()
    # longer than that if there was no engine to look at towards the end, but not for ever
    while elapsed < 1 or (not late and elapsed < 3):
        time.sleep(0.5)
        elapsed = (time.monotonic() - started) / options.seconds
        sizes = sample(cluster)
        if all(sizes) and (not trouble.kills and elapsed > 0.15 or elapsed > 0.85):
            (late if trouble.kills else early).append(sizes)
        if early:
            trouble.turn(elapsed)
    ended = options.clients - background.running()
    cluster.finish(canceller)
    background.stop()
    counts = {"right": 0, "wrong": 0}
    for line in background.lines():
        word = line.split("ERROR:", 1)[1].strip()[:5] if "ERROR:" in line else line.split()[0] if line.split() else ""
        if "ERROR:" in line or word in counts:
            counts[word] = counts.get(word, 0) + 1
    counts.pop("57P01", None)  # the end of the load
    print("outcomes:", ", ".join(f"{k} {v}" for k, v in sorted(counts.items())))
    report("engine killed", trouble.kills, 2, "times")
    report("engine stopped", trouble.stops, 2, "times")
    report("queries cancelled", counts.get("57014", 0), 1)
    report("statements that ended well", counts["right"], 1)
    report("share of right answers", counts["right"] / (counts["right"] + counts["wrong"]), 1.0)
    total = sum(counts.values())
    report("share that ended well or with an error of these events",
           sum(v for k, v in counts.items() if k in ALLOWED | {"right"}) / total, 1.0)
    report("share of sessions that lasted", 1 - ended / options.clients, 1.0)
    for name, column in (("engine", 0), ("backends", 1)):
        before, after = (statistics.median(s[column] for s in sizes) for sizes in (early, late))
        report(f"memory of the {name}, early", before / 1024, unit="MB")
        report(f"memory of the {name}, early / late", before / after, 0.9)


def digest(cluster, task):
    return cluster.sql(f"SELECT encode(digest, 'hex') FROM ia3.adapters WHERE task = '{task}'")


def interrupt(cluster, options, rng):
    """Interrupts the run that is under way. Returns what happened, or None if it had ended before."""
    pid = cluster.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL ia3_pretrain%' AND state = 'active'")
    what = rng.choice(["engine", "engine", "backend", "cancel", "server"])
    if not pid:
        return None
    if what == "server":
        control = [f"{options.bindir}/pg_ctl", "-D", options.data, "-w", "-l", f"{options.data}/../server.log"]
        subprocess.run(control + ["-m", "immediate", "restart"], env=cluster.env, stdout=subprocess.DEVNULL, check=True)
    elif what == "engine":
        engine = engine_pid(cluster)
        if not engine:
            return None
        os.kill(int(engine), signal.SIGKILL)
    else:
        cluster.sql(f"SELECT pg_{'cancel' if what == 'cancel' else 'terminate'}_backend({pid})")
    return what


def resume(cluster, options):
    rng = random.Random(5)
    cluster.finish(cluster.start(PRETRAIN.format(task="whole", steps=options.steps)))
    call, counts, ends = PRETRAIN.format(task="interrupted", steps=options.steps), {}, 0
    while sum(counts.values()) < options.interruptions:
        run = cluster.start(call)
        time.sleep(rng.uniform(0.05, 1))
        what = interrupt(cluster, options, rng)
        while what is None and run.poll() is None:  # not yet begun, or its engine is being restarted
            time.sleep(0.1)
            what = interrupt(cluster, options, rng)
        _, error = run.communicate()
        if run.returncode == 0:
            ends += 1  # it was done before all interruptions: once more from the beginning
            if digest(cluster, "interrupted") != digest(cluster, "whole"):
                sys.exit("an interrupted run has other vectors")
            cluster.sql("SELECT ia3_drop('interrupted')")
        elif what:
            counts[what] = counts.get(what, 0) + 1
        elif "restarted" not in error and "starting" not in error:
            sys.exit(f"the run failed by itself: {error}")
    step = cluster.sql("SELECT step FROM ia3.checkpoint WHERE task = 'interrupted'") or "0"
    cluster.finish(cluster.start(call))
    print("interrupted by the end of:", ", ".join(f"{k} {v}" for k, v in sorted(counts.items())), f"; runs that ended before: {ends}")
    report("interruptions", sum(counts.values()), options.interruptions)
    report("step of the last checkpoint", int(step))
    report("vectors are those of an uninterrupted run", digest(cluster, "interrupted") == digest(cluster, "whole"), 1)


def main():
    options = arguments()
    cluster = Cluster(options)
    load(cluster)
    parts = options.only.split(",")
    if "sessions" in parts:
        sessions(cluster, options)
    if "resume" in parts:
        resume(cluster, options)


if __name__ == "__main__":
    main()
