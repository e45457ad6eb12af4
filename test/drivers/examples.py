"""The examples of docs/drivers.md: each is run as it stands, and what it prints is compared with its comments `→`."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "drivers.md"
LANGUAGES = {"python": "example.py", "js": "example.js", "java": "Example.java"}
TIMEOUT = 600  # seconds, which only an example that hangs takes


def blocks(language):
    """The headings and texts of the blocks in a language."""
    heading, lines, found = "", None, []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if lines is not None and line.startswith("```"):
            found.append((heading, "\n".join(lines) + "\n"))
            lines = None
        elif lines is not None:
            lines.append(line)
        elif line == "```" + language:
            lines = []
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    return found


def setup_statements():
    (_, text), = blocks("sql")
    return [statement for statement in re.split(r";\n", text) if statement.strip()]


class Tunnel:
    """A TCP port of this machine that leads to a Unix socket, for drivers that know only TCP."""

    def __init__(self, path):
        self.path = path
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.path)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=(source, target), daemon=True).start()

    @staticmethod
    def copy(source, target):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Example:
    def __init__(self, language, heading, text):
        self.language, self.heading, self.text = language, heading, text
        self.expected = re.findall(r"(?:#|//) *→ (.*)$", text, re.MULTILINE)

    def missing(self):
        """Why the example cannot run here, or None."""
        if self.language == "js" and (shutil.which("node") is None or subprocess.run(
                ["node", "-e", "require('pg')"], capture_output=True, check=False).returncode != 0):
            return "there is no node, or it does not find the module pg"
        if self.language == "java" and (shutil.which("javac") is None or not os.path.exists(os.environ.get("IA3_JDBC", ""))):
            return "there is no javac, or IA3_JDBC is not the jar of the driver"
        return None

    def commands(self, file, socket_directory, database):
        if self.language == "python":
            return [[sys.executable, file]]
        if self.language == "js":
            return [["node", file]]
        tunnel = Tunnel(f"{socket_directory}/.s.PGSQL.{os.environ.get('PGPORT', '5432')}")
        jar, directory = os.environ["IA3_JDBC"], os.path.dirname(file)
        return [["javac", "-cp", jar, "-d", directory, file],
                ["java", "-cp", f"{jar}:{directory}", "Example",
                 f"jdbc:postgresql://127.0.0.1:{tunnel.port}/{database}?user=postgres"]]

    def run(self, socket_directory, database):
        """Returns the name, the reason for not running it, whether it is right, and otherwise what it printed."""
        name, reason = f"example: {self.heading}", self.missing()
        if reason:
            return name, reason, False, ""
        environment = dict(os.environ, PGHOST=socket_directory, PGUSER="postgres", PGDATABASE=database)
        with tempfile.TemporaryDirectory() as directory:
            file = os.path.join(directory, LANGUAGES[self.language])
            Path(file).write_text(self.text, encoding="utf-8")
            for command in self.commands(file, socket_directory, database):
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
                if done.returncode != 0:
                    return name, None, False, done.stdout + done.stderr
        printed = done.stdout.splitlines()
        return name, None, bool(printed) and printed == self.expected, f"expected {self.expected}\nprinted {printed}"


def all_of_them():
    return [Example(language, *block) for language in LANGUAGES for block in blocks(language)]
