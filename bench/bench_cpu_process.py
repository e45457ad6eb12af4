"""The processes that scripts/bench cpu measures. Each has one configuration, reads commands line by line and answers in JSON."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time


class Unsupported(Exception):
    """The configuration is not available here; the text says why."""


def progress(text):
    print(f"  {time.strftime('%T')} {text}", file=sys.stderr, flush=True)


class Worker:
    """
    A process that says {"ready": true} and then answers commands. `first` is the command whose answer ends the time
    from the start of the process to its first answer.
    """

    def __init__(self, name, command, first, env=None):
        progress(f"{name}: starts")
        self.name, self.peak = name, 0
        self.log = tempfile.TemporaryFile("w+")
        started = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env=dict(os.environ, **(env or {})))
        self.receive()
        self.ask(first)
        self.first_answer = time.perf_counter() - started

    def receive(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            lines, code = [l.strip() for l in self.log if l.strip()], self.process.returncode
            if code < 0:
                raise Unsupported(f"killed by {signal.Signals(-code).name}")
            raise Unsupported(lines[-1] if lines else f"exit status {code}")
        return json.loads(line)

    def ask(self, command):
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; its log says why
        return self.receive()

    def close(self):
        """Notes the highest resident memory in bytes, then ends the process."""
        self.peak = status(self.process.pid, "VmHWM")
        self.process.stdin.write("quit\n")
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def status(pid, field):
    """A size of /proc/PID/status in bytes."""
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field + ":"))


def cpu_seconds(pid):
    """CPU time of all threads of a process."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fastest(candidates, measure):
    """{candidate: seconds}: the least measure of each. Short ones are tried up to three times."""
    took = {}
    for candidate in candidates:
        runs = []
        while len(runs) < 3 and sum(runs) < 2:
            runs.append(measure(candidate))
        took[candidate] = min(runs)
    return took


def in_turn(runs, measures, limit):
    """
    ({name: seconds}, runs): medians of measures that are run A B C C B A …, so that a slow phase of the machine affects
    all. No run begins that would end after `limit` seconds if it took as long as the one before, but the first one.
    """
    seconds = {name: [] for name in measures}
    started, run = time.perf_counter(), 0
    while run < runs and (run == 0 or (time.perf_counter() - started) * (run + 1) / run <= limit):
        order = list(measures)
        for name in order if run % 2 == 0 else reversed(order):
            seconds[name].append(measures[name]())
        run += 1
    return {name: statistics.median(s) for name, s in seconds.items()}, run
