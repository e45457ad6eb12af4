"""The components of a highly available ia3 on one machine: etcd, three Patroni nodes, HAProxy, PgBouncer. They are real ones, as Debian
packages them; every one listens on a port of 127.0.0.1 that is free, and ends with this process."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg2

NAMES = ("one", "two", "three")
# Seconds. 20 is the shortest lease of the leader that Patroni accepts.
TTL, LOOP_WAIT, RETRY = 20, 2, 5


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds):
    """Waits until condition() is true, and returns it; TimeoutError says what for."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.2)


class Process:
    """A program that writes its log to a file and is in a process group of its own."""

    def __init__(self, command, log, **environment):
        self.command, self.log, self.environment = command, log, environment
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                          env=os.environ | self.environment)

    def stop(self, how=signal.SIGTERM):
        if self.popen.poll() is None:
            self.popen.send_signal(how)
            try:
                self.popen.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.popen.pid, signal.SIGKILL)
                self.popen.wait()


class Node:
    """A server with its engine, run by Patroni."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.port, self.rest = free_port(), free_port()
        self.directory = cluster.work / name
        self.directory.mkdir()
        self.data = self.directory / "data"
        self.configuration = self.directory / "patroni.json"
        self.configuration.write_text(json.dumps(self.configure(), indent=1))
        self.process = None

    def configure(self):
        users = {"username": "postgres", "password": "postgres"}  # initdb wants one; nobody is asked for it
        return {
            "scope": "ia3", "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{self.rest}", "connect_address": f"127.0.0.1:{self.rest}"},
            "etcd3": {"hosts": [f"127.0.0.1:{self.cluster.etcd_port}"]},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL, "loop_wait": LOOP_WAIT, "retry_timeout": RETRY, "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": {
                        "shared_preload_libraries": "ia3", "ia3.backbones": f"default={self.cluster.backbone}@cpu:float32",
                        "ia3.threads": 1, "ia3.start_timeout": "5s", "max_connections": 60, "hot_standby_feedback": "on"}}},
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]},
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}", "connect_address": f"127.0.0.1:{self.port}", "data_dir": str(self.data),
                "bin_dir": str(self.cluster.bin), "pgpass": str(self.directory / "pgpass"),
                "authentication": {"superuser": users, "replication": users, "rewind": users},
                "parameters": {"unix_socket_directories": str(self.directory), "fsync": "off", "logging_collector": "off"}},
        }

    def start(self):
        self.process = Process(["patroni", str(self.configuration)], self.directory / "log")

    def kill(self):
        """The death of the machine: Patroni, the server, its engine and all backends end at once, without a word."""
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        engine = self.engine_pid()
        os.kill(self.process.popen.pid, signal.SIGKILL)
        for pid in (postmaster, engine):
            os.kill(pid, signal.SIGKILL)
        self.process.popen.wait()

    def engine_pid(self):
        return self.value("SELECT pid FROM ia3_stat_engine WHERE backbone = 'default' AND state = 'ready'", "app")

    def patroni(self, path, method="GET"):
        """The status of an answer of Patroni's REST interface, or 0."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.rest}/{path}", method=method,
                                         data=b"{}" if method == "POST" else None)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def connect(self, database="postgres"):
        c = psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=database, connect_timeout=5)
        c.autocommit = True
        return c

    def value(self, sql, database="postgres"):
        """The first column of the first row."""
        c = self.connect(database)
        try:
            with c.cursor() as q:
                q.execute(sql)
                return q.fetchone()[0] if q.description else None
        finally:
            c.close()

    def is_ready(self, database="app"):
        try:
            return self.value("SELECT ia3_ready()", database)
        except psycopg2.Error:
            return False


HAPROXY = """
global
    external-check
    insecure-fork-wanted
defaults
    mode tcp
    timeout connect 3s
    timeout client 60s
    timeout server 60s
listen primary
    bind 127.0.0.1:{write}
    option httpchk GET /primary
    default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
{primaries}
listen predictions
    bind 127.0.0.1:{read}
    option external-check
    external-check command {check}
    default-server check inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
{standbys}
"""

# HAProxy passes: its own address and port, the server's address and port
CHECK = """#!/bin/sh
[ "$(PGCONNECT_TIMEOUT=2 {psql} -XAt -h "$3" -p "$4" -U postgres app -c 'SELECT ia3_ready() AND pg_is_in_recovery()' 2>/dev/null)" = t ]
"""

PGBOUNCER = """
[databases]
app = host=127.0.0.1 port={write} dbname=app user=postgres
app_read = host=127.0.0.1 port={read} dbname=app user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 200
server_connect_timeout = 3
server_login_retry = 1
query_wait_timeout = 60
server_lifetime = 5
ignore_startup_parameters = extra_float_digits
"""


class Cluster:
    def __init__(self, work, bin_directory, backbone):
        self.work, self.bin, self.backbone = Path(work), Path(bin_directory), backbone
        self.etcd_port, self.write, self.read, self.pool = free_port(), free_port(), free_port(), free_port()
        peer = free_port()
        self.processes = [Process(
            ["etcd", "--data-dir", str(self.work / "etcd"), "--listen-client-urls", f"http://127.0.0.1:{self.etcd_port}",
             "--advertise-client-urls", f"http://127.0.0.1:{self.etcd_port}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
             "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", f"default=http://127.0.0.1:{peer}",
             "--unsafe-no-fsync"], self.work / "etcd.log")]
        self.nodes = [Node(self, name) for name in NAMES]

    def start(self):
        """The first node makes the cluster, the others copy it; the database `app` has the extension."""
        self.nodes[0].start()
        wait_for("a primary", lambda: self.nodes[0].patroni("primary") == 200, 120)
        self.nodes[0].value("CREATE DATABASE app")
        self.nodes[0].value("CREATE EXTENSION ia3", "app")
        for node in self.nodes[1:]:
            node.start()
        wait_for("two standbys", lambda: all(n.patroni("replica") == 200 for n in self.nodes[1:]), 180)
        wait_for("engines", lambda: all(n.is_ready() for n in self.nodes), 120)
        self.start_routing()

    def start_routing(self):
        check = self.work / "check"
        check.write_text(CHECK.format(psql=self.bin / "psql"))
        check.chmod(0o755)
        servers = lambda part: "\n".join(f"    server {n.name} 127.0.0.1:{n.port} {part(n)}" for n in self.nodes)
        haproxy = self.work / "haproxy.cfg"
        haproxy.write_text(HAPROXY.format(write=self.write, read=self.read, check=check, primaries=servers(lambda n: f"port {n.rest}"),
                                          standbys=servers(lambda n: "")))
        self.processes.append(Process([shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", str(haproxy)], self.work / "haproxy.log"))
        pgbouncer = self.work / "pgbouncer.ini"
        pgbouncer.write_text(PGBOUNCER.format(write=self.write, read=self.read, port=self.pool, pool=8))
        self.processes.append(Process([shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", str(pgbouncer)], self.work / "pgbouncer.log"))
        wait_for("PgBouncer and HAProxy", lambda: self.answers("app") and self.answers("app_read"), 60)

    def answers(self, database):
        try:
            c = self.pooled(database)
        except psycopg2.Error:
            return False
        c.close()
        return True

    def pooled(self, database, timeout=5):
        """A connection to PgBouncer, which has asked a server once."""
        c = psycopg2.connect(host="127.0.0.1", port=self.pool, user="postgres", dbname=database, connect_timeout=timeout)
        c.autocommit = True
        return c

    def primary(self):
        return next((n for n in self.nodes if n.patroni("primary") == 200), None)

    def standbys(self):
        return [n for n in self.nodes if n.patroni("replica") == 200]

    def stop(self):
        for process in reversed(self.processes):
            process.stop()
        for node in self.nodes:
            if node.process:
                node.process.stop()
