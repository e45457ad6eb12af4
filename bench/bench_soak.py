#!/usr/bin/env python3
"""200 sessions for a minute while the engine is killed twice (scripts/bench soak).

Every transaction has to succeed or to fail with one of the errors that a dead engine may cause. The anonymous memory of
the engine and of the backends must not grow after the first quarter.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from bench_batching import CHOICES, Cluster, WORDS, report

# connection failure, cannot connect now, not in the prerequisite state (restarting)
ALLOWED = {"08006", "57P03", "55000"}

SET_UP = """
CREATE EXTENSION ia3;
CREATE TABLE outcome (state text, message text);
CREATE FUNCTION ask(id int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM ia3_predict('soak', (SELECT body FROM rows r WHERE r.id = ask.id));
    INSERT INTO outcome VALUES ('00000', NULL);
EXCEPTION WHEN OTHERS THEN
    INSERT INTO outcome VALUES (SQLSTATE, SQLERRM);
END$$;
CREATE TABLE rows (id int PRIMARY KEY, body text);
CREATE TABLE shots (text text, label text);
"""


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bindir", required=True)
    p.add_argument("--socket", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--clients", type=int, default=200)
    p.add_argument("--seconds", type=int, default=60)
    return p.parse_args()


def anonymous_kb(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return None


def sample(cluster):
    """(engine, mean of the clients' backends) in kB; None where there is none."""
    pids = cluster.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'").split()
    sizes = [s for s in map(anonymous_kb, pids) if s is not None]
    engine = cluster.sql("SELECT pid FROM ia3_stat_engine WHERE state = 'ready'")
    return anonymous_kb(engine) if engine else None, statistics.mean(sizes) if sizes else None


def load(cluster):
    import random
    rng = random.Random(3)
    cluster.sql(SET_UP)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(4, 60))) for _ in range(1000)]
    cluster.sql("INSERT INTO rows VALUES " + ",".join(f"({i},'{t}')" for i, t in enumerate(texts)))
    shots = ",".join(f"('{' '.join(rng.choices(WORDS, k=20))}','{CHOICES[i % 4]}')" for i in range(20))
    cluster.sql(f"INSERT INTO shots VALUES {shots}")
    cluster.sql("SELECT ia3_train('soak', 'SELECT text, label FROM shots', steps => 5, seed => 1)")


def main():
    options = arguments()
    cluster = Cluster(options)
    load(cluster)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as f:
        f.write("\\set id random(0, 999)\nSELECT ask(:id);\n")
        f.flush()
        pgbench = subprocess.Popen([f"{options.bindir}/pgbench", "-n", "-f", f.name, "-c", str(options.clients), "-j", "2",
                                    "-T", str(options.seconds)], env=cluster.env, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        samples, started, kills = [], time.monotonic(), 0
        while pgbench.poll() is None:
            time.sleep(1)
            elapsed = (time.monotonic() - started) / options.seconds
            if kills < 2 and elapsed > (0.35, 0.6)[kills]:
                engine = cluster.sql("SELECT pid FROM ia3_stat_engine WHERE state = 'ready'")
                if engine:
                    os.kill(int(engine), signal.SIGKILL)
                    kills += 1
            if elapsed < 0.97:
                samples.append((elapsed, *sample(cluster)))
        out = pgbench.stdout.read()
    if pgbench.returncode or "aborted" in out:
        sys.exit(out)
    states = dict(line.split("|") for line in
                  cluster.sql("SELECT state, count(*) FROM outcome GROUP BY 1").splitlines())
    print("outcomes:", ", ".join(f"{k} {v}" for k, v in sorted(states.items())))
    total = sum(map(int, states.values()))
    processed = int(next(l for l in out.splitlines() if "actually processed" in l).split(":")[1].split("/")[0])
    report("engine killed", kills, 2, "times")
    report("transactions that ended well", int(states.get("00000", 0)), 1)
    report("share of transactions with an outcome", total / processed, 1.0)
    report("share that ended well or with a clean error",
           sum(int(v) for k, v in states.items() if k in ALLOWED | {"00000"}) / total, 1.0)
    early = [s for s in samples if 0.15 < s[0] < 0.35]
    late = [s for s in samples if s[0] > 0.75]
    for name, column in (("engine", 1), ("backends", 2)):
        before = statistics.median(s[column] for s in early if s[column])
        after = statistics.median(s[column] for s in late if s[column])
        report(f"memory of the {name}, early", before / 1024, unit="MB")
        report(f"memory of the {name}, early / late", before / after, 0.9)


if __name__ == "__main__":
    main()
