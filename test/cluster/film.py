"""Load on a cluster while its primary dies: what clients saw in every second, as numbers and as a picture."""

import threading
import time
from typing import NamedTuple

import psycopg2

READERS, WRITERS = 6, 2
TRAIN = "SELECT ia3_train('film', 'SELECT text, label FROM shots', steps => 150, batch_size => 4, seed => {})"
PREDICT = "SELECT ia3_predict('topics', 'the invoice {} is wrong')"
WRITE = "INSERT INTO written (worker, number) VALUES ({}, {}) RETURNING number"


class Call(NamedTuple):
    kind: str  # "prediction", "write", "training"
    began: float  # seconds since the film began
    seconds: float
    error: str | None  # None: answered
    value: object


class Film:
    """Calls through PgBouncer, by threads that reconnect after an error, until the film ends."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.calls, self.lock, self.over = [], threading.Lock(), threading.Event()
        self.start, self.ended = time.monotonic(), None
        work = [("prediction", "app_read", lambda worker, n: PREDICT.format(worker * 100000 + n), 0.02)] * READERS
        work += [("write", "app", lambda worker, n: WRITE.format(worker, n), 0.1)] * WRITERS
        work += [("training", "app", lambda worker, n: TRAIN.format(n), 0)]
        self.threads = [threading.Thread(target=self.play, args=(i, *w)) for i, w in enumerate(work)]
        for thread in self.threads:
            thread.start()

    def now(self):
        """Seconds since the film began, at most its length."""
        return (self.ended or time.monotonic()) - self.start

    def play(self, worker, kind, database, sql, pause):
        connection, n = None, 0
        while not self.over.is_set():
            n += 1
            began, error, value = self.now(), None, None
            try:
                if connection is None:
                    connection = self.cluster.pooled(database)
                with connection.cursor() as q:
                    q.execute(sql(worker, n))
                    value = q.fetchone()[0]
            except psycopg2.Error as e:
                error = str(e).strip() or repr(e)
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.1)
            with self.lock:
                self.calls.append(Call(kind, began, self.now() - began, error, (worker, value)))
            time.sleep(pause)
        if connection is not None:
            connection.close()

    def end(self):
        """True if every client came back."""
        self.over.set()
        for thread in self.threads:
            thread.join(90)
        self.ended = time.monotonic()
        return not any(thread.is_alive() for thread in self.threads)

    def of(self, kind, answered=None):
        with self.lock:
            return [c for c in self.calls if c.kind == kind and (answered is None or (c.error is None) == answered)]

    def silence(self, kind, since):
        """The longest time after `since` in which no call of the kind was answered, in seconds."""
        ends = sorted(c.began + c.seconds for c in self.of(kind, True))
        ends = [since] + [e for e in ends if e > since]
        return max((b - a for a, b in zip(ends, ends[1:])), default=0)

    def seconds(self):
        """For every second: predictions answered, their errors, the longest of them in ms, writes answered, their errors."""
        rows = [[0, 0, 0, 0, 0] for _ in range(int(self.now()) + 1)]
        for c in self.of("prediction") + self.of("write"):
            row, at = rows[min(int(c.began + c.seconds), len(rows) - 1)], 0 if c.kind == "prediction" else 3
            row[at if c.error is None else at + 1] += 1
            if c.kind == "prediction":
                row[2] = max(row[2], round(c.seconds * 1000))
        return rows


def picture(rows, events):
    """SVG: four curves over time. events: (second, name)"""
    width, height, left, top = 720, 90, 60, 30
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + left + 20}" height="{4 * (height + 40) + top}" '
             'font-family="sans-serif" font-size="11">', f'<rect width="100%" height="100%" fill="white"/>']
    x = lambda second: left + second * width / max(1, len(rows))
    for i, (name, column, color) in enumerate((("predictions answered per second", 0, "#2b6cb0"), ("slowest prediction, ms", 2, "#805ad5"),
                                               ("writes answered per second", 3, "#2f855a"), ("errors per second", None, "#c53030"))):
        values = [r[1] + r[4] if column is None else r[column] for r in rows]
        most, y0 = max(values + [1]), top + i * (height + 40) + height
        y = lambda value: y0 - value * height / most
        bars = "".join(f'<rect x="{x(s):.1f}" y="{y(v):.1f}" width="{width / len(rows) * 0.9:.1f}" height="{y0 - y(v):.1f}" fill="{color}"/>'
                       for s, v in enumerate(values) if v)
        parts.append(f'<text x="{left}" y="{y0 - height - 6}">{name}</text><text x="{left - 6}" y="{y0 - height + 8}" text-anchor="end">{most}</text>'
                     f'<text x="{left - 6}" y="{y0}" text-anchor="end">0</text><line x1="{left}" x2="{left + width}" y1="{y0}" y2="{y0}" stroke="#888"/>{bars}')
        for second, event in events:
            parts.append(f'<line x1="{x(second):.1f}" x2="{x(second):.1f}" y1="{y0 - height}" y2="{y0}" stroke="black" stroke-dasharray="3 2"/>')
            if i == 0:
                parts.append(f'<text x="{x(second) + 3:.1f}" y="{y0 - height - 18}">{event}</text>')
    y0 = top + 3 * (height + 40) + height
    parts += [f'<text x="{x(s):.1f}" y="{y0 + 14}" text-anchor="middle">{s} s</text>' for s in range(0, len(rows), 10)]
    return "\n".join(parts + ["</svg>"]) + "\n"
