"""What the stages that train have in common: their options, and a run that lasts some minutes."""

import argparse
import time


def options(doc, *files):
    """A parser that knows --minutes, --seed, --model, --out, and the files (options that must be given)."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in (*files, "tokenizer", "model"):
        p.add_argument(f"--{name}", required=True)
    p.add_argument("--out", help="where the checkpoint goes (--model)")
    p.add_argument("--minutes", type=float, required=True)
    p.add_argument("--seed", type=int, default=0)
    return p


class Run:
    """Minutes that go by, and the optimizer's rates, which rise for `warmup` steps and fall to zero over the minutes. Each group of
    parameters has its highest rate as "top"."""

    def __init__(self, minutes, optimizer, warmup):
        self.length, self.optimizer, self.warmup = minutes * 60, optimizer, warmup
        self.started, self.last, self.step = time.monotonic(), {}, 0

    def seconds(self):
        return time.monotonic() - self.started

    def minutes(self):
        return self.seconds() / 60

    def next(self):
        """Sets the rates of the next step; false if the minutes are over."""
        gone = self.seconds() / self.length
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * min(1, self.step / self.warmup) * (1 - gone)
        return gone < 1

    def due(self, what, every):
        """Whether it is time for something that is done every so many minutes."""
        now = self.minutes()
        if now - self.last.get(what, 0) < every:
            return False
        self.last[what] = now
        return True
