#!/usr/bin/env python3
"""ia3 on more than one server: streaming replication under Patroni, with HAProxy and PgBouncer before it.

    run.py --work DIR --bin DIR --backbone DIR [--picture FILE]

prints TAP. Runs as the user that the servers run as, who must not be root.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2

import film
from servers import TTL, Cluster, wait_for

n = failed = 0


def check(name, ok, found=""):
    global n, failed
    n += 1
    failed += not ok
    print(f"{'ok' if ok else 'not ok'} {n} - {name}", flush=True)
    if not ok:
        print("# " + str(found).replace("\n", "\n# "), flush=True)
    return ok


def equal(name, found, expected):
    return check(name, found == expected, f"found {found!r}, expected {expected!r}")


def say(text):
    print(f"# {text}", flush=True)


def error_of(call):
    """(SQLSTATE, message, hint) of the error that a call raises."""
    try:
        result = call()
    except psycopg2.Error as e:
        return e.pgcode, e.diag.message_primary, e.diag.message_hint
    return None, f"none, but: {result!r}", None


def query(connection, sql):
    with connection.cursor() as q:
        q.execute(sql)
        return q.fetchall() if q.description else None


SHOTS = """
CREATE TABLE shots (text text, label text);
INSERT INTO shots VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access'), ('the invoice is wrong', 'billing'),
    ('reset my password', 'access'), ('when do I get my refund', 'billing'), ('my account is locked', 'access');
CREATE TABLE written (worker int, number int, PRIMARY KEY (worker, number));
CREATE TABLE tickets (id int PRIMARY KEY, body text, topic text);
INSERT INTO tickets SELECT i, 'the invoice ' || i FROM generate_series(1, 200) i;
"""
TRAIN = "SELECT ia3_train('topics', 'SELECT text, label FROM shots', steps => {}, batch_size => 4, seed => 1)"
SCORES = "SELECT string_agg(choice || ' ' || score, ', ' ORDER BY rank) FROM ia3_classify('topics', 'my card is refused')"
ACTIVE = "SELECT active_version FROM ia3.task WHERE task = 'topics'"


def test_roles(cluster):
    """Every server predicts; only the primary trains; a new version is on the standbys when it is replayed."""
    primary, standbys = cluster.primary(), cluster.standbys()
    equal("one primary and two standbys", (primary is not None, len(standbys)), (True, 2))
    check("each has an engine of its own", len({node.engine_pid() for node in cluster.nodes}) == 3)
    digest = "SELECT encode(backbone_digest, 'hex') FROM ia3_stat_engine"
    check("all engines have the same backbone", len({node.value(digest, "app") for node in cluster.nodes}) == 1)
    write = cluster.pooled("app")
    query(write, SHOTS)
    equal("training on the primary, through PgBouncer", query(write, TRAIN.format(100)), [(1,)])
    for node in standbys:
        wait_for("replay", lambda: node.value(ACTIVE, "app") == 1, 30)
        equal(f"{node.name} has the version and gives the same scores", node.value(SCORES, "app"), primary.value(SCORES, "app"))
        code, message, hint = error_of(lambda: node.value(TRAIN.format(1), "app"))
        equal(f"{node.name} does not train", (code, message, hint), (
            "25006", "cannot execute ia3_train() during recovery",
            "Execute it on the primary server. Replication brings the result here."))
    write.close()


def test_routing(cluster):
    """While the primary trains, predictions go to the standbys, to both of them."""
    done, trained = threading.Event(), []

    def train():
        c = cluster.pooled("app")
        trained.append(query(c, TRAIN.format(600)))
        c.close()
        done.set()

    thread = threading.Thread(target=train)
    primary, standbys = cluster.primary(), cluster.standbys()
    rows = "SELECT sum(rows)::int FROM ia3_stat_engine"
    before = {node.name: node.value(rows, "app") for node in cluster.nodes}
    thread.start()
    answers, ports = 0, set()
    wait_for("a step", lambda: primary.value("SELECT count(*) FROM ia3_stat_progress_train WHERE step > 0", "app") == 1, 60)
    while not done.is_set():
        c = cluster.pooled("app_read")
        (port, choice), = query(c, f"SELECT inet_server_port(), ia3_predict('topics', 'the invoice {answers}')")
        ports.add(port)
        answers += choice in ("billing", "access") and not done.is_set()
        c.close()
        time.sleep(0.05)
    thread.join()
    equal("the training run ends", trained, [[(2,)]])
    check("predictions are answered meanwhile", answers >= 5, answers)
    check("by the standbys", ports <= {node.port for node in standbys}, ports)
    wait_for("another server", lambda: seen_ports(cluster) == {node.port for node in standbys}, 60)
    check("by both of them", True)
    after = {node.name: node.value(rows, "app") for node in cluster.nodes}
    equal("the primary's engine has scored nothing", after[primary.name], before[primary.name])
    check("the standbys' engines have", sum(after[s.name] - before[s.name] for s in standbys) >= answers, (before, after))


seen = set()


def seen_ports(cluster):
    """The ports of the servers that have answered so far; PgBouncer keeps a connection for a few seconds."""
    c = cluster.pooled("app_read")
    seen.add(query(c, "SELECT inet_server_port()")[0][0])
    c.close()
    return seen


CALLS = """
SELECT ia3_version()
SELECT ia3_ready()
SELECT ia3_predict('topics', 'x')
SELECT ia3_predict('topics@1', 'x', ARRAY['billing', 'access'], 0.99)
SELECT ia3_predict_fields('topics', '{"text": "x"}')
SELECT ia3_zero_shot('x', ARRAY['a', 'b'])
SELECT count(*) FROM shots, ia3_classify('topics', text) c
SELECT ia3_generate('topics', 'x', 4) IS NOT NULL
SELECT accuracy >= 0 FROM ia3_evaluate('topics', 'SELECT text, label FROM shots')
SELECT count(*) FROM ia3_cross_predict('SELECT text, label FROM shots', folds => 2, steps => 5, seed => 1)
SELECT ia3_train('pooled', 'SELECT text, label FROM shots', steps => 5, seed => 1, calibrate => false)
CALL ia3_train_task('pooled', 'SELECT text, label FROM shots', steps => 5, seed => 2)
SELECT ia3_activate('pooled', 1)
SELECT ia3_average('pooled', ARRAY['pooled@1', 'pooled@2'])
SELECT ia3_import('copied', ia3_export('pooled@1'))
SELECT ia3_watch('tickets', 'topics', 'body', 'topic')
INSERT INTO tickets VALUES (1001, 'the invoice is wrong')
SELECT topic IS NOT NULL FROM tickets WHERE id = 1001
SELECT ia3_unwatch('tickets', 'topic')
CALL ia3_label('tickets', 'topics', 'body', 'topic', commit_rows => 50)
SELECT count(*) FROM tickets WHERE topic IS NULL
SELECT ia3_drop('copied')
SELECT count(*) FROM ia3_stat_engine WHERE state = 'ready'
"""


def test_pooling(cluster):
    """PgBouncer in transaction mode gives every transaction another session; nothing may depend on the last one."""
    connections = [cluster.pooled("app") for _ in range(12)]  # more than there are servers' sessions
    for at, sql in enumerate(CALLS.strip().split("\n")):
        code, message, _ = error_of(lambda: query(connections[at % 12], sql))
        check(f"through PgBouncer: {sql}", message.startswith("none, but: "), f"{code} {message}")
    equal("no row is left without a label", query(connections[0], "SELECT count(*) FROM tickets WHERE topic IS NULL"), [(0,)])
    with connections[1].cursor() as q:
        q.execute("BEGIN; SET LOCAL ia3.backbone = 'none'")
        code, message, _ = error_of(lambda: query(connections[1], "SELECT ia3_zero_shot('x', ARRAY['a', 'b'])"))
        check("SET LOCAL chooses the backbone of a transaction", message.startswith('backbone "none"') or "none" in message, (code, message))
        q.execute("ROLLBACK")
    found = {query(c, "SELECT current_setting('ia3.backbone')")[0][0] for c in connections}
    equal("and of no other", found, {"default"})
    for c in connections:
        c.close()


def test_digest(cluster):
    """A server with other weights than its entry asks for is not ready, says why, and gets no predictions."""
    node = cluster.standbys()[0]
    digest = node.value("SELECT encode(backbone_digest, 'hex') FROM ia3_stat_engine", "app")
    entry = f"default={cluster.backbone}@cpu:float32#sha256="
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    node.value(f"ALTER SYSTEM SET ia3.backbones = '{entry}{other}'")
    node.patroni("restart", "POST")
    state = "SELECT state || ': ' || message FROM ia3_stat_engine"
    wait_for("the engine's failure", lambda: answer(node, state) is not None and node.value(state, "app").startswith("failed"), 60)
    equal("a server with another digest is not ready", node.is_ready(), False)
    check("and says why", other in node.value(state, "app"), node.value(state, "app"))
    time.sleep(6)  # two checks of HAProxy, and the end of PgBouncer's sessions
    ports = set()
    for _ in range(10):
        c = cluster.pooled("app_read")
        ports.add(query(c, "SELECT inet_server_port() FROM ia3_predict('topics', 'x')")[0][0])
        c.close()
    equal("predictions go to the other standby", ports, {s.port for s in cluster.standbys()} - {node.port})
    node.value(f"ALTER SYSTEM SET ia3.backbones = '{entry}{digest}'")
    node.value("SELECT pg_reload_conf()")
    wait_for("the engine", node.is_ready, 60)
    check("with its own digest it is ready again", True)


def answer(node, sql):
    try:
        return node.value(sql, "app")
    except (psycopg2.Error, TypeError):
        return None


def test_failover(cluster, picture):
    """The primary dies while all kinds of work go on."""
    primary = cluster.primary()
    scene = film.Film(cluster)
    time.sleep(10)
    wait_for("a training run", lambda: scene.of("training", True), 60)
    killed = scene.now()
    primary.kill()
    promoted = wait_for("a new primary", lambda: (p := cluster.primary()) and p is not primary and p, 2 * TTL + 30)
    promotion = scene.now()
    wait_for("writes", lambda: any(c.began > promotion for c in scene.of("write", True)), 60)
    wait_for("training", lambda: any(c.began > promotion for c in scene.of("training", True)), 60)
    time.sleep(8)
    check("every client got an answer or an error", scene.end())
    outage = {kind: scene.silence(kind, killed) for kind in ("prediction", "write", "training")}
    say(f"killed at {killed:.1f} s, new primary {promotion - killed:.1f} s later; without an answer: " +
        ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in outage.items()))
    for kind in outage:
        errors = sorted({c.error.split("\n")[0] for c in scene.of(kind, False)})
        say(f"{kind}: {len(scene.of(kind, True))} answered, {len(scene.of(kind, False))} errors: {errors}")
    longest = max(c.seconds for c in scene.of("prediction"))
    check("predictions go on while there is no primary", outage["prediction"] < TTL / 2, outage)
    check("no prediction took longer than HAProxy notices a server's death", longest < TTL, longest)
    check("writes go on after the promotion", outage["write"] < 2 * TTL + 30, outage)
    lost = {c.value for c in scene.of("write", True)} - set(query_on(promoted, "SELECT worker, number FROM written"))
    equal("no row that was committed is lost", lost, set())
    versions = {c.value[1] for c in scene.of("training", True)}
    kept = {row[0] for row in query_on(promoted, "SELECT version FROM ia3.adapter WHERE task = 'film'")}
    check("no version that was committed is lost", versions <= kept, versions - kept)
    check("versions were trained on both primaries", {c.began < killed for c in scene.of("training", True)} == {True, False})
    primary.start()
    wait_for("the old primary as a standby", lambda: primary.patroni("replica") == 200 and primary.is_ready(), 120)
    wait_for("replay", lambda: primary.value("SELECT count(*) FROM ia3.adapter WHERE task = 'film'", "app") >= len(kept), 30)
    equal("the old primary comes back as a standby with the same scores", primary.value(SCORES, "app"), promoted.value(SCORES, "app"))
    if picture:
        Path(picture).write_text(film.picture(scene.seconds(), [(killed, "primary killed"), (promotion, "new primary")]))
    for second, row in enumerate(scene.seconds()):
        say("second %d: %d predictions, %d errors, slowest %d ms; %d writes, %d errors" % (second, *row))


def query_on(node, sql):
    c = node.connect("app")
    rows = query(c, sql)
    c.close()
    return rows


def versions(bin_directory):
    for command in ([f"{bin_directory}/postgres", "--version"], ["patroni", "--version"], ["etcd", "--version"], ["/usr/sbin/haproxy", "-v"],
                    ["/usr/sbin/pgbouncer", "--version"]):
        say(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", required=True, help="an empty directory")
    p.add_argument("--bin", required=True, help="of PostgreSQL")
    p.add_argument("--backbone", required=True, help="a directory, the same for all servers")
    p.add_argument("--picture", help="where to draw the failover, as SVG")
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["PATH"] += ":/usr/sbin"
    versions(args.bin)
    backbone = Path(args.work) / "backbone"
    shutil.copytree(args.backbone, backbone)
    cluster = Cluster(args.work, args.bin, backbone)
    try:
        cluster.start()
        test_roles(cluster)
        test_routing(cluster)
        test_pooling(cluster)
        test_digest(cluster)
        test_failover(cluster, args.picture)
    except Exception as e:  # what was waited for did not happen: one failure, with the logs' ends
        check("the test runs to its end", False, f"{type(e).__name__}: {e}")
        for log in sorted(Path(args.work).glob("*log")) + sorted(Path(args.work).glob("*/log")):
            say(f"--- {log.name} of {log.parent.name}")
            for line in log.read_text(errors="replace").split("\n")[-30:]:
                say(line)
    finally:
        cluster.stop()
    print(f"1..{n}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
