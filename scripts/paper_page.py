"""A page of HTML with tables and plots, in one file that needs nothing else."""

import html
import math
from typing import NamedTuple

STYLE = """body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } tr:last-child td { border-bottom: 2px solid #888 } th { border-bottom: 2px solid #888 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2em 1.5em } dd { margin: 0 } dt { color: #666 }
svg text { paint-order: stroke; stroke: #fff; stroke-width: 3px } svg { max-width: 100%; height: auto } .note { color: #666 } code { background: #f4f4f4; padding: 0 .2em }"""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 420, 70, 50, 20, 30


def escaped(text):
    return html.escape(str(text))


def table(header, rows):
    """Cells are plain text; a cell that is None is a dash."""
    cells = lambda kind, row: "".join(f"<{kind}>{'–' if c is None else escaped(c)}</{kind}>" for c in row)
    return "<table>\n<tr>%s</tr>\n%s\n</table>" % (cells("th", header), "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows))


def decades(low, high):
    """The powers of ten from the one at or below low to the one at or above high, at least two."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0 ** e for e in range(first, max(last, first + 1) + 1)]


def steps(low, high):
    """Round numbers, about five, that enclose low and high."""
    size = max(high - low, 0.02) / 5
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if s >= size or s == 0.2)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 6) for i in range(first, max(last, first + 1) + 1)]


def power(x):
    e = round(math.log10(x))
    return f'10<tspan dy="-5" font-size="10">{e}</tspan>'


class Box(NamedTuple):
    """A rectangle of the plot, in its units."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other):
        """The area that both cover."""
        return (max(0, min(self.right, other.right) - max(self.left, other.left))
                * max(0, min(self.bottom, other.bottom) - max(self.top, other.top)))


def place(name, x, y, taken):
    """Where the name of a point at (x, y) goes: (x, y of its baseline, anchor, its box). Right of the point if that is free, then left,
    above and below, then farther away; where nothing is free, where it covers least."""
    wide, high = 7 * len(name), 13
    best = None
    for away in range(0, 96, 12):
        for dx, dy in ((8, 0), (-8, 0), (8, -1), (8, 1), (-8, -1), (-8, 1), (0, -1), (0, 1)):
            if away > 0 and dy == 0:
                continue
            base = y + 4 + dy * (away + 14)
            left = x + dx if dx > 0 else x + dx - wide if dx < 0 else x - wide / 2
            box = Box(left, base - high + 3, left + wide, base + 3)
            if box.left < LEFT or box.right > WIDTH - RIGHT + 10 or box.top < 0 or box.bottom > HEIGHT - BOTTOM:
                continue
            cost = sum(box.overlap(t) for t in taken)
            if best is None or cost < best[0]:
                best = (cost, (x + dx, base, "start" if dx > 0 else "end" if dx < 0 else "middle", box))
            if cost == 0:
                return best[1]
    return best[1]


def pointer(x, y, box):
    """A line from a point to a name that is not beside it; nothing if it is."""
    at_x, at_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
    if math.hypot(at_x - x, at_y - y) < 14:
        return ""
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{at_x:.1f}" y2="{at_y:.1f}" stroke="#999" stroke-width=".8"/>'


def scatter(points, x_label, y_label):
    """points: [(name, x > 0, y between 0 and 1)]; x goes by powers of ten. Each point is marked with its name."""
    xs, ys = decades(min(p[1] for p in points), max(p[1] for p in points)), steps(min(p[2] for p in points), max(p[2] for p in points))
    across = lambda x: LEFT + (math.log10(x / xs[0]) / math.log10(xs[-1] / xs[0])) * (WIDTH - LEFT - RIGHT)
    up = lambda y: HEIGHT - BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - BOTTOM - TOP)
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" font-family="sans-serif" font-size="12" role="img">']
    for x in xs:
        out.append(f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>'
                   f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{power(x)}</text>')
    for y in ys:
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    taken = [Box(across(x) - 5, up(y) - 5, across(x) + 5, up(y) + 5) for _, x, y in points]
    names, dots = [], []
    for name, x, y in sorted(points, key=lambda p: p[1]):
        text_x, text_y, anchor, box = place(name, across(x), up(y), taken)
        taken.append(box)
        names.append(pointer(across(x), up(y), box))
        dots.append(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="4" fill="#2a6fb0"><title>{escaped(name)}: {x:.3g}, {y:.3f}</title></circle>'
                    f'<text x="{text_x:.1f}" y="{text_y:.1f}" text-anchor="{anchor}">{escaped(name)}</text>')
    out += names + dots
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escaped(x_label)}</text>'
               f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{escaped(y_label)}</text></svg>')
    return "\n".join(out)


def page(title, parts):
    """parts: [(heading, [HTML])]"""
    body = "\n".join(f"<h2>{escaped(heading)}</h2>\n" + "\n".join(content) for heading, content in parts)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title><style>{STYLE}</style></head>\n'
            f"<body><h1>{escaped(title)}</h1>\n{body}\n</body></html>\n")
