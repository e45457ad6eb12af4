#!/usr/bin/env python3
"""Rows of plans, sessions and training runs that share one engine (scripts/bench batching).

Each measurement is compared with another one: with the engine alone, to which a client sends the same rows over its
socket and keeps it busy; with one task instead of 32; with an idle engine instead of a loaded one; with training runs one
after the other instead of at once. The two take turns within one run, and the medians of --repeat runs count.
"""

import argparse
import glob
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

from engine_client import Engine

WORDS = """the patient was given a dose of drug and developed severe rash fever pain after treatment with no other
 cause found in this report we describe two cases of renal failure liver injury was observed during therapy which
 resolved when it was stopped customers ask for refund invoice login error page support order payment account new
 feature request slow crash update screen phone email please help could you not work again today yesterday""".split()
CHOICES = ["bug", "billing", "feature request", "question"]
TASKS = 32


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bindir", required=True)
    p.add_argument("--socket", required=True)
    p.add_argument("--data", required=True, help="data directory of the cluster")
    p.add_argument("--rows", type=int, default=10000)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--seconds", type=int, default=10, help="of each pgbench run")
    p.add_argument("--sessions", type=int, default=64, help="that predict single rows at once")
    p.add_argument("--steps", type=int, default=400, help="of each training run that is measured")
    p.add_argument("--only", default="throughput,latency,training", help="parts to run")
    return p.parse_args()


class Cluster:
    def __init__(self, options):
        self.options = options
        self.env = dict(os.environ, PGHOST=options.socket, PGUSER="postgres", PGDATABASE="postgres")

    def psql_command(self, sql):
        return [f"{self.options.bindir}/psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]

    def sql(self, text):
        command = [f"{self.options.bindir}/psql", "-XqAt", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(command, env=self.env, input=text, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout.strip()

    def start(self, text):
        return subprocess.Popen(self.psql_command(text), env=self.env, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def start_background(self, text):
        """Starts a session that runs until stop_background(), and gives it a moment to begin."""
        self.background = subprocess.Popen(self.psql_command(text), env=dict(self.env, PGAPPNAME="background"),
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)

    def stop_background(self):
        """Terminates its backend, because a running query does not notice that its client has gone."""
        if self.background.poll() is not None:
            sys.exit("the background load ended by itself")
        self.sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'background'")
        self.background.wait()
        time.sleep(0.5)

    def finish(self, process):
        out, err = process.communicate()
        if process.returncode:
            sys.exit(err)
        return out.strip()

    def pgbench(self, script, clients, seconds):
        """Returns (transactions per second, sorted latencies in ms)."""
        with tempfile.TemporaryDirectory() as scratch:
            with open(f"{scratch}/script.sql", "w") as f:
                f.write(script)
            command = [f"{self.options.bindir}/pgbench", "-n", "-f", f"{scratch}/script.sql", "-c", str(clients), "-j", "1",
                       "-T", str(seconds), "-M", "prepared", "-l", "--log-prefix", f"{scratch}/log"]
            done = subprocess.run(command, env=self.env, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            tps = float(next(l for l in done.stdout.splitlines() if l.startswith("tps")).split()[2])
            latencies = sorted(int(line.split()[2]) / 1000 for log in glob.glob(f"{scratch}/log*") for line in open(log))
            return tps, latencies


def set_up(cluster, n_rows):
    rng = random.Random(7)
    cluster.sql("CREATE EXTENSION ia3; CREATE TABLE shots (text text, label text);"
                "CREATE TABLE rows (id int PRIMARY KEY, task text, body text)")
    texts = [" ".join(rng.choices(WORDS, k=min(120, max(4, int(rng.lognormvariate(3.2, 0.6)))))) for _ in range(n_rows)]
    values = ",".join(f"({i},'task{rng.randrange(TASKS)}','{t}')" for i, t in enumerate(texts))
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as f:
        f.write(f"INSERT INTO rows VALUES {values};\n")
        f.flush()
        subprocess.run([f"{cluster.options.bindir}/psql", "-Xq", "-f", f.name], env=cluster.env, check=True)
    shots = ",".join(f"('{' '.join(rng.choices(WORDS, k=30))}','{CHOICES[i % 4]}')" for i in range(50))
    cluster.sql(f"INSERT INTO shots VALUES {shots}; ANALYZE rows")
    for t in range(TASKS):
        cluster.sql(f"SELECT ia3_train('task{t}', 'SELECT text, label FROM shots', steps => 4, seed => {t})")


def engine_payloads(cluster, engine, request_rows):
    """The rows of the table as requests of `request_rows` rows; puts their adapters."""
    adapters = {}
    for line in cluster.sql("SELECT t.task, a.method, encode(a.digest, 'hex'), encode(a.vectors, 'hex') FROM ia3.task t"
                            " JOIN ia3.adapter a ON a.task = t.task AND a.version = t.active_version").splitlines():
        task, method, digest, vectors = line.split("|")
        adapters[task] = bytes.fromhex(digest)
        engine.put_adapter(adapters[task], method.encode(), b"", bytes.fromhex(vectors))
    names = sorted(adapters)
    choices = cluster.sql("SELECT array_to_string(choices, '|') FROM ia3.task WHERE task = 'task0'").encode().split(b"|")
    rows = []
    for line in cluster.sql("SELECT task, body FROM rows ORDER BY id").splitlines():
        task, body = line.split("|")
        rows.append((names.index(task), 0, body.encode()))
    digests = [adapters[n] for n in names]
    return [engine.score_payload(512, digests, [choices], rows[i:i + request_rows])
            for i in range(0, len(rows), request_rows)]


def seconds(f):
    started = time.perf_counter()
    f()
    return time.perf_counter() - started


def in_turn(repeat, *measures):
    """Medians of measures that are run A B A B …, after one run of each that is not counted."""
    for m in measures:
        m()
    results = [[] for _ in measures]
    for _ in range(repeat):
        for values, m in zip(results, measures):
            values.append(m())
    return [statistics.median(v) for v in results]


def percentile(values, p):
    return values[min(len(values) - 1, int(p * len(values)))] if values else float("nan")


def report(name, value, goal=None, unit=""):
    verdict = "" if goal is None else f"{'>=' if goal > 0 else '':2} {goal:<6}{'ok' if value >= goal else 'short'}"
    print(f"{name:<66} {value:>10.3f} {unit:<7} {verdict}", flush=True)


LATERAL = "SELECT count(c.choice) FROM rows r, ia3_classify({task}, r.body) c WHERE c.rank = 1"
ENDLESS = "DO $$BEGIN LOOP PERFORM ({scan}); END LOOP; END$$"
SINGLE = ("\\set id random(0, {last})\n"
          "SELECT ia3_predict(r.task, r.body) FROM rows r WHERE r.id = :id;\n")


def throughput(cluster, options, engine):
    n = options.rows
    payloads = engine_payloads(cluster, engine, 256)
    alone, lateral, single_task = in_turn(
        options.repeat,
        lambda: n / seconds(lambda: engine.score_all(payloads, 8)),
        lambda: n / seconds(lambda: cluster.sql(LATERAL.format(task="r.task"))),
        lambda: n / seconds(lambda: cluster.sql(LATERAL.format(task="'task0'"))))
    report("engine alone, 32 tasks mixed", alone, unit="rows/s")
    report(f"LATERAL over {n} rows, 32 tasks", lateral, unit="rows/s")
    report("LATERAL, one task", single_task, unit="rows/s")
    report("LATERAL / engine alone", lateral / alone, 0.95)
    report("32 tasks mixed / one task", lateral / single_task, 0.97)
    single = SINGLE.format(last=n - 1)
    alone, sessions = in_turn(options.repeat,
                              lambda: n / seconds(lambda: engine.score_all(payloads, 8)),
                              lambda: cluster.pgbench(single, options.sessions, options.seconds)[0])
    report(f"{options.sessions} sessions, single rows", sessions, unit="rows/s")
    report(f"{options.sessions} sessions / engine alone", sessions / alone, 0.8)


def latency(cluster, options):
    single = SINGLE.format(last=options.rows - 1)
    scan = LATERAL.format(task="r.task")

    def measure(name, background):
        if background:
            cluster.start_background(background)
        latencies = cluster.pgbench(single, 1, options.seconds)[1]
        if background:
            cluster.stop_background()
        report(f"single row, {name}: p50", percentile(latencies, 0.5), unit="ms")
        report(f"single row, {name}: p99", percentile(latencies, 0.99), unit="ms")

    measure("idle", None)
    measure("under a scan", ENDLESS.format(scan=scan))
    measure("during a training run", "SELECT ia3_train('busy', 'SELECT text, label FROM shots', steps => 100000)")


def training(cluster, options):
    train = "SELECT ia3_train('trained{k}', 'SELECT text, label FROM shots', steps => {steps}, seed => {k})"
    rate = "SELECT steps / (metrics->>'seconds')::float8 FROM (SELECT *, (metrics->>'steps')::int AS steps" \
           " FROM ia3.adapters WHERE task = 'trained0' ORDER BY version DESC LIMIT 1) s"

    def one():
        cluster.sql(train.format(k=0, steps=options.steps))
        return float(cluster.sql(rate))

    def loaded():
        cluster.start_background(ENDLESS.format(scan=LATERAL.format(task="r.task")))
        value = one()
        cluster.stop_background()
        return value

    alone, under = in_turn(options.repeat, one, loaded)
    report("training alone", alone, unit="steps/s")
    report("training under a scan", under, unit="steps/s")

    def sequential():
        for k in range(3):
            cluster.sql(train.format(k=k, steps=options.steps))

    def together():
        for process in [cluster.start(train.format(k=k, steps=options.steps)) for k in range(3)]:
            cluster.finish(process)

    apart, at_once = in_turn(options.repeat, lambda: seconds(sequential), lambda: seconds(together))
    report("three training runs, one after the other", apart, unit="s")
    report("three training runs at once", at_once, unit="s")
    report("one after the other / at once", apart / at_once, 1.0)
    folds(cluster, options)


def folds(cluster, options):
    """A cross-validation of five folds against five training runs, each on four fifths of the rows."""
    part = "SELECT text, label FROM (SELECT *, row_number() OVER () AS i FROM shots) s WHERE i % 5 <> {k}"
    train = f"SELECT ia3_train('fold{{k}}', '{part}', steps => {options.steps}, seed => {{k}})"
    cross = f"SELECT count(*) FROM ia3_cross_predict('SELECT text, label FROM shots', steps => {options.steps}, seed => 1)"

    def sequential():
        for k in range(5):
            cluster.sql(train.format(k=k))

    apart, together = in_turn(options.repeat, lambda: seconds(sequential), lambda: seconds(lambda: cluster.sql(cross)))
    report("five training runs, one after the other", apart, unit="s")
    report("cross-validation with five folds", together, unit="s")
    report("five runs / five folds", apart / together, 1.0)


def main():
    options = arguments()
    cluster = Cluster(options)
    set_up(cluster, options.rows)
    sockets = glob.glob(f"{options.data}/pg_stat_tmp/ia3.*sock*")
    if len(sockets) != 1:
        sys.exit(f"expected one engine socket, found {sockets}")
    engine = Engine(sockets[0])
    parts = options.only.split(",")
    if "throughput" in parts:
        throughput(cluster, options, engine)
    if "latency" in parts:
        latency(cluster, options)
    if "training" in parts:
        training(cluster, options)
    print(cluster.sql("SELECT format('engine: %s batches, %s rows a batch, %s tasks a batch, %s rows computed once for others',"
                      " batches, round(mean_rows_per_batch::numeric, 1), round(distinct_tasks_per_batch::numeric, 1),"
                      " dedup_rows) FROM ia3_stat_engine"))


if __name__ == "__main__":
    main()
