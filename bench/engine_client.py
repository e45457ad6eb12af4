"""A client for the engine's protocol (src/common/protocol.h): does what a backend does, without PostgreSQL."""

import os
import re
import socket
import struct

HELLO, SCORE, PUT_ADAPTER = 1, 4, 5
HELLO_OK, SCORE_OK, MISSING, OK, ERROR = 64, 67, 68, 69, 127
MAGIC = 0x50334149
PROTOCOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "common", "protocol.h")
with open(PROTOCOL, encoding="utf-8") as header:
    VERSION = int(re.search(r"#define IA3_PROTOCOL_VERSION (\d+)", header.read()).group(1))


def put_str(b):
    return struct.pack("<I", len(b)) + b


class Engine:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.request = 0
        self.send(HELLO, struct.pack("<II", MAGIC, VERSION) + put_str(b"bench"))
        kind, _, payload = self.receive()
        if kind != HELLO_OK:
            raise RuntimeError(payload)

    def send(self, kind, payload):
        self.request += 1
        self.sock.sendall(struct.pack("<IBI", 5 + len(payload), kind, self.request) + payload)
        return self.request

    def read(self, n):
        parts = []
        while n > 0:
            part = self.sock.recv(min(n, 1 << 20))
            if not part:
                raise RuntimeError("the engine closed the connection")
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def receive(self):
        length, kind, request = struct.unpack("<IBI", self.read(9))
        return kind, request, self.read(length - 5)

    def put_adapter(self, digest, method, options, vectors):
        self.send(PUT_ADAPTER, digest + put_str(method) + put_str(options) + put_str(vectors))
        kind, _, payload = self.receive()
        if kind != OK:
            raise RuntimeError(payload)

    def score_payload(self, max_tokens, digests, choice_sets, rows):
        """rows: (adapter index, choice set index, text as bytes)"""
        out = [struct.pack("<II", max_tokens, len(digests)), *digests, struct.pack("<I", len(choice_sets))]
        for choices in choice_sets:
            out.append(struct.pack("<BI", 0, len(choices)))
            out += [put_str(c) for c in choices]
        out.append(struct.pack("<I", len(rows)))
        for adapter, choices, text in rows:
            out.append(struct.pack("<II", adapter, choices) + put_str(text) + struct.pack("<II", len(text), 0))
        return b"".join(out)

    def score_all(self, payloads, depth):
        """Sends every payload as a SCORE request, `depth` of them under way at a time; returns the rows answered."""
        sent = done = rows = 0
        while done < len(payloads):
            while sent < len(payloads) and sent - done < depth:
                self.send(SCORE, payloads[sent])
                sent += 1
            kind, _, payload = self.receive()
            if kind != SCORE_OK:
                raise RuntimeError(f"reply {kind}: {payload[:200]!r}")
            done += 1
            at = 0
            while at < len(payload) - 8:  # the FLOPs follow
                if payload[at] != 1:
                    raise RuntimeError(f"row failed: {payload[at:at + 200]!r}")
                at += 5 + 8 * struct.unpack_from("<I", payload, at + 1)[0]
                rows += 1
        return rows
