#!/usr/bin/env python3
"""Sessions of an ordinary role that do their worst, and what another role notices (scripts/bench hostile).

20 sessions of a role with nothing but CONNECT repeat statements that take as much as that role can get: inputs of the
greatest length, generation without end, many choices, templates with ten thousands of fields, locks on ia3's tables.
Another role predicts single rows meanwhile. Its latency is compared with that of the same rows beside as many sessions
of plain SQL that keep the processors busy. The two take turns.

Goals: the 99th percentile is at most three times that of the comparison, no statement of the other role fails, the engine
stays within ia3.memory_limit, and under this load pg_ctl stop -m fast ends within five seconds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from bench_batching import CHOICES, Cluster, WORDS, percentile, report, seconds

# What each session repeats. Statements that are refused stay in the list: being refused must cost little, too.
HOSTILE = {
    "long rows": """
        SET ia3.max_input_tokens = 4096;
        SET statement_timeout = '1s';
        SELECT ia3_predict(repeat('word ', 30000), ARRAY['good', 'bad']);
        RESET statement_timeout;
        SELECT ia3_predict(repeat('word ' || pg_backend_pid() || ' ', 3000), ARRAY['good', 'bad']);""",
    "many long rows": """
        SET ia3.max_input_tokens = 2048;
        SET statement_timeout = '3s';
        SELECT count(ia3_predict(repeat('word ' || g || ' ', 2000), ARRAY['good', 'bad'])) FROM generate_series(1, 200) g;""",
    "generation": "SELECT count(ia3_generate('hi ' || g, 1024, 1e30)) FROM generate_series(1, 20) g;",
    "choices": """
        SELECT count(*) FROM ia3_classify('word ' || pg_backend_pid(),
            (SELECT array_agg('choice number ' || g) FROM generate_series(1, 10000) g));
        SELECT count(*) FROM ia3_classify('word', (SELECT array_agg('c' || g) FROM generate_series(1, 100000) g));""",
    "templates": """
        SET statement_timeout = '2s';
        SELECT length(ia3_render((SELECT string_agg('{f' || g || '}', '') FROM generate_series(1, 40000) g), '{}'));
        SELECT length(ia3_render((SELECT string_agg('{f' || g || '}', '') FROM generate_series(1, 40000) g),
            (SELECT jsonb_object_agg('f' || g, g) FROM generate_series(1, 40000) g)));
        SELECT count(*) FROM ia3_tokenize(repeat('some words ', 500000));""",
    "locks": """
        BEGIN;
        LOCK TABLE ia3.task IN ACCESS EXCLUSIVE MODE;
        ROLLBACK;
        BEGIN;
        LOCK TABLE ia3.adapter IN SHARE MODE;
        ROLLBACK;
        DELETE FROM ia3.task;
        UPDATE ia3.task SET comment = 'mine';
        SELECT count(*) FROM ia3.adapters;""",
    "scans": """
        SET statement_timeout = '2s';
        SELECT count(ia3_predict('row ' || g || repeat(' and more', 40), ARRAY['good', 'bad'])) FROM generate_series(1, 100000) g;""",
}
BUSY = {"plain SQL": "SELECT sum(sqrt(g)) FROM generate_series(1, 1000000) g;"}
SINGLE = "\\set id random(0, 999)\nSELECT ia3_predict('mine', (SELECT body FROM rows WHERE id = :id));\n"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bindir", required=True)
    p.add_argument("--socket", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--sessions", type=int, default=20)
    p.add_argument("--clients", type=int, default=2, help="sessions that predict single rows")
    p.add_argument("--seconds", type=int, default=60, help="under hostile load; the comparison takes as long")
    p.add_argument("--warm-up", type=float, default=2, help="seconds that a load runs before anything is measured")
    p.add_argument("--only", default=",".join(HOSTILE), help="kinds of hostile statements")
    return p.parse_args()


def load(cluster):
    import random
    rng = random.Random(3)
    cluster.sql("CREATE EXTENSION ia3; CREATE TABLE rows (id int PRIMARY KEY, body text);"
                "CREATE TABLE shots (text text, label text); CREATE ROLE mallory LOGIN; CREATE ROLE alice LOGIN;"
                "GRANT SELECT ON rows, shots TO alice; GRANT EXECUTE ON FUNCTION ia3_train TO alice")
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(10, 60))) for _ in range(1000)]
    cluster.sql("INSERT INTO rows VALUES " + ",".join(f"({i},'{t}')" for i, t in enumerate(texts)))
    shots = ",".join(f"('{' '.join(rng.choices(WORDS, k=20))}','{CHOICES[i % 4]}')" for i in range(20))
    cluster.sql(f"INSERT INTO shots VALUES {shots}; ANALYZE rows; SET ROLE alice;"
                "SELECT ia3_train('mine', 'SELECT text, label FROM shots', steps => 5, seed => 1)")


class Load:
    """Sessions of one role, each of which repeats one of the given scripts until stop()."""

    def __init__(self, cluster, role, sessions, scripts, verbosity="default"):
        self.cluster, self.scratch = cluster, tempfile.TemporaryDirectory()
        os.chmod(self.scratch.name, 0o755)
        names = list(scripts)
        for name in names:
            with open(f"{self.scratch.name}/{name}", "w") as f:
                f.write(scripts[name] + "\n")
        self.processes = []
        for i in range(sessions):
            log = open(f"{self.scratch.name}/log{i}", "w")
            script = f"{self.scratch.name}/{names[i % len(names)]}"
            command = f'while cat "$1"; do :; done 2>/dev/null | "$2" -XqAt -v VERBOSITY={verbosity} -U {role}'
            self.processes.append(subprocess.Popen(
                ["bash", "-c", command, "bash", script, f"{cluster.options.bindir}/psql"], stdout=log, stderr=log,
                env=dict(cluster.env, PGAPPNAME="load"), start_new_session=True))

    def running(self):
        return sum(p.poll() is None for p in self.processes)

    def lines(self):
        """What the sessions have printed."""
        for i in range(len(self.processes)):
            with open(f"{self.scratch.name}/log{i}", errors="replace") as f:
                yield from f

    def errors(self):
        """How often each message of an error came."""
        counts = {}
        for line in self.lines():
            if "ERROR:" in line:
                message = line.split("ERROR:", 1)[1].strip()[:70]
                counts[message] = counts.get(message, 0) + 1
        return counts

    def stop(self):
        self.cluster.sql("SELECT count(pg_terminate_backend(pid, 20000)) FROM pg_stat_activity WHERE application_name = 'load'")
        for p in self.processes:
            p.wait()


class MemoryWatch(threading.Thread):
    """The most memory that the engine has had, sampled ten times a second."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.pid, self.most, self.done = int(cluster.sql("SELECT pid FROM ia3_stat_engine")), 0, False

    def run(self):
        while not self.done:
            try:
                with open(f"/proc/{self.pid}/status") as f:
                    self.most = max(self.most, next(int(l.split()[1]) for l in f if l.startswith("RssAnon")) * 1024)
            except (OSError, StopIteration):
                pass
            time.sleep(0.1)


def single_rows(cluster, options, duration):
    """Latencies of single rows for `duration` seconds, sorted, in ms. An error of a statement ends the benchmark."""
    env = cluster.env
    cluster.env = dict(env, PGUSER="alice")
    latencies = cluster.pgbench(SINGLE, options.clients, duration)[1]
    cluster.env = env
    return latencies


def main():
    options = arguments()
    cluster = Cluster(options)
    load(cluster)
    hostile = {name: HOSTILE[name] for name in options.only.split(",")}
    report("single row, nothing else: p99", percentile(single_rows(cluster, options, min(5, options.seconds)), 0.99), unit="ms")
    slices, busy, under = 3 if options.seconds >= 30 else 1, [], []
    watch = MemoryWatch(cluster)
    watch.start()
    errors = {}
    for _ in range(slices):
        for role, scripts, latencies in (("alice", BUSY, busy), ("mallory", hostile, under)):
            background = Load(cluster, role, options.sessions, scripts)
            time.sleep(options.warm_up)
            latencies.extend(single_rows(cluster, options, options.seconds // slices))
            if background.running() < options.sessions:
                sys.exit(f"{options.sessions - background.running()} sessions of the load ended by themselves")
            background.stop()
            if scripts is hostile:
                for message, n in background.errors().items():
                    errors[message] = errors.get(message, 0) + n
    for name, latencies in (("plain SQL", busy), ("hostile load", under)):
        latencies.sort()
        report(f"single row beside {name}: statements", len(latencies))
        report(f"single row beside {name}: p50", statistics.median(latencies), unit="ms")
        report(f"single row beside {name}: p99", percentile(latencies, 0.99), unit="ms")
        report(f"single row beside {name}: longest", latencies[-1], unit="ms")
    report("3 x p99 beside plain SQL / p99 beside hostile load", 3 * percentile(busy, 0.99) / percentile(under, 0.99), 1.0)
    watch.done = True
    watch.join()
    limit = int(cluster.sql("SELECT setting::int8 * 1024 * 1024 FROM pg_settings WHERE name = 'ia3.memory_limit'"))
    report("memory of the engine, the most", watch.most / 2**20, unit="MB")
    if limit > 0:
        report("limit / memory of the engine", limit / watch.most, 1.0)
    for message, n in sorted(errors.items(), key=lambda e: -e[1]):
        print(f"    {n:>7} times for the hostile role: {message}")
    if int(cluster.sql("SELECT restarts FROM ia3_stat_engine")):
        sys.exit("the engine was restarted")

    background = Load(cluster, "mallory", options.sessions, hostile)
    time.sleep(2.5 * options.warm_up)
    stop = [f"{options.bindir}/pg_ctl", "-D", options.data, "-m", "fast", "-t", "60", "-w", "stop"]
    took = seconds(lambda: subprocess.run(stop, env=cluster.env, stdout=subprocess.DEVNULL, check=True))
    report("pg_ctl stop -m fast under hostile load", took, unit="s")
    report("5 s / pg_ctl stop -m fast", 5 / took, 1.0)
    for p in background.processes:
        p.wait()


if __name__ == "__main__":
    main()
