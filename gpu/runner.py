"""Steps that have a limited time, and the processes they run."""

import json
import os
import queue
import signal
import subprocess
import threading
import time


class Failure(Exception):
    """What went wrong in a step, in one line."""


class OutOfTime(Failure):
    """A process did not end within its limit."""


def kill(process):
    """Kills the process and all processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:  # stuck in a driver: it stays, the check goes on
        pass


def _what_it_said(process):
    """The output of a process that was killed, unless it holds on to it."""
    try:
        return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        return "(its output cannot be read)"


def run(command, limit, environment=None, log=None, stdin=None):
    """Returns (exit status, output). At the limit the process is killed and OutOfTime raised; the log has the output so
    far."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True,
                               errors="replace", start_new_session=True)
    late = False
    try:
        output, _ = process.communicate(stdin, timeout=max(limit, 0.1))
    except subprocess.TimeoutExpired:
        kill(process)
        output = _what_it_said(process)
        late = True
    if log:
        with open(log, "w") as f:
            f.write(f"$ {' '.join(command)}\n{output}")
    if late:
        raise OutOfTime(f"{os.path.basename(command[0])} did not end in {limit:.0f} s")
    return process.returncode, output


class Driver:
    """A process that answers each line with a line of JSON (bench_gpu.c, bench_gpu_torch.py)."""

    def __init__(self, command, log, environment=None):
        self.name = os.path.basename(command[1] if "python" in command[0] else command[0])
        self.log = open(log, "w")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        env=environment, text=True, start_new_session=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def ask(self, command, limit):
        """The answer; raises Failure when it is an error, the process has ended, or none comes in time."""
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=max(limit, 0.1))
        except queue.Empty:
            kill(self.process)
            raise OutOfTime(f"{self.name}: no answer to \"{command}\" in {limit:.0f} s") from None
        except (BrokenPipeError, ValueError):
            line = None
        if line is None:
            kill(self.process)  # it has ended, or will not go on without its output
            raise Failure(f"{self.name} ended with status {self.process.returncode} at \"{command}\": "
                          f"{self.last_words()}")
        self.log.write(f"{command} -> {line}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(f"{self.name}: {command}: {answer['error']}")
        return answer

    def last_words(self):
        self.log.flush()
        with open(self.log.name, errors="replace") as f:
            lines = [line.strip() for line in f if line.strip()]
        return " / ".join(lines[-3:])

    def close(self):
        if self.process.poll() is None:
            try:
                self.process.communicate("quit\n", timeout=10)
            except (subprocess.TimeoutExpired, ValueError, BrokenPipeError):
                kill(self.process)
        for stream in (self.process.stdin, self.process.stdout, self.log):
            try:
                stream.close()
            except BrokenPipeError:  # what could not be written any more
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Clock:
    """The time that is left for the whole check."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()


class Step:
    """The time that a step may take: its own limit, or the time left for the whole check if that is less."""

    def __init__(self, clock, limit):
        self.started = time.monotonic()
        self.end = self.started + min(limit, clock.left())

    def left(self):
        return self.end - time.monotonic()

    def seconds(self):
        return time.monotonic() - self.started
