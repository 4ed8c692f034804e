#!/usr/bin/env python3
"""Draws how long a drain takes against the number of sessions: ours, the limit and the peers.

Reads what `cargo bench` has left, writes a picture, and prints the same as a Markdown table:

    BENCH=full cargo bench --locked --bench peers
    python3 benches/plot.py --out docs/drain.svg

Other groups than `peers` come out as a table too: `--group drain-sqlite --limit rusqlite`, or
`--group drain-plugins --counted plugins`.
"""

import argparse
import json
import math
import os
from pathlib import Path

# In the order of the legend: name of the benchmark, what it is called, colour, dashes.
LINES = [
    ("ractor", "ractor, per pair", "#8c564b", ""),
    ("kameo", "kameo, per pair", "#9467bd", ""),
    ("task-tracker", "TaskTracker, per pair", "#2ca02c", ""),
    ("supervisor", "ours", "#d62728", ""),
    ("report", "ours, until the report", "#d62728", "6 4"),
    ("ractor-chunks", "ractor, in chunks", "#8c564b", "6 4"),
    ("kameo-chunks", "kameo, in chunks", "#9467bd", "6 4"),
    ("task-tracker-chunks", "TaskTracker, in chunks", "#2ca02c", "6 4"),
    ("rusqlite", "bare rusqlite", "#1f77b4", "2 3"),
    ("disk", "bare file, synced", "#7f7f7f", "2 3"),
    ("channels", "limit: bare channels", "#000000", "2 3"),
]

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 76, 220, 40, 56


def criterion_directory():
    if "CRITERION_HOME" in os.environ:
        return Path(os.environ["CRITERION_HOME"])
    return Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "criterion"


def read(group):
    """The medians in seconds, by name of the benchmark and number of sessions."""
    figures = {}
    for path in group.glob("*/*/new/estimates.json"):
        name, size = path.parts[-4], path.parts[-3]
        if not size.isdigit():
            continue
        estimates = json.loads(path.read_text())
        nanoseconds = estimates["median"]["point_estimate"]
        figures.setdefault(name, {})[int(size)] = nanoseconds / 1e9
    return figures


def duration(seconds):
    for factor, unit in [(1, "s"), (1e3, "ms"), (1e6, "µs")]:
        if seconds * factor >= 1 or unit == "µs":
            value = seconds * factor
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def table(figures, limit, counted):
    known = [line for line in LINES if line[0] in figures]
    others = [line for line in known if line[0] not in ("supervisor", limit)]
    ours, bare = figures.get("supervisor", {}), figures.get(limit, {})
    names = {name: label for name, label, _, _ in LINES}
    heads = [counted, "ours", names.get(limit, limit), "ours / limit"]
    heads += [label for _, label, _, _ in others]
    rows = [heads, ["---:"] * len(heads)]
    for size in sorted({size for sizes in figures.values() for size in sizes}):
        ratio = f"{ours[size] / bare[size]:.2f}" if size in ours and size in bare else ""
        cells = [ours, bare, ratio] + [figures[name] for name, _, _, _ in others]
        texts = [
            cell if isinstance(cell, str) else duration(cell[size]) if size in cell else ""
            for cell in cells
        ]
        rows.append([f"{size:,}"] + texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def growth(figures, limit):
    """By how much the ratio to the limit grows from 10,000 sessions to the most that there are."""
    ours, bare = figures.get("supervisor", {}), figures.get(limit, {})
    sizes = sorted(size for size in ours if size in bare and size >= 10_000)
    if len(sizes) < 2:
        return ""
    first, last = [ours[size] / bare[size] for size in (sizes[0], sizes[-1])]
    return f"\nours / limit, {sizes[-1]:,} against {sizes[0]:,} sessions: {last / first:.2f}"


def scale(values, start, end):
    """From values to places, logarithmic, between whole decades."""
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    place = lambda value: start + (math.log10(value) - low) / (high - low) * (end - start)
    return place, [10.0**decade for decade in range(low, high + 1)]


def text(x, y, content, anchor="middle", **attributes):
    more = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{content}</text>'


def line(x1, y1, x2, y2, style):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def spread(labels, distance):
    """Moves labels, of which each is a place and a text, down until none covers another."""
    lowest = -math.inf
    for place, *label in sorted(labels, key=lambda label: label[0]):
        lowest = max(place, lowest + distance)
        yield lowest, *label


def svg(figures):
    known = [entry for entry in LINES if entry[0] in figures]
    points = [point for entry in known for point in figures[entry[0]].items()]
    x, x_ticks = scale([size for size, _ in points], LEFT, WIDTH - RIGHT)
    y, y_ticks = scale([seconds for _, seconds in points], HEIGHT - BOTTOM, TOP)
    grid = 'stroke="#dddddd"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        "<title>Time to tell four plugins of every end, against the number of sessions</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 22, "Time to tell four plugins of every end", "start"),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "sessions"),
    ]
    for tick in x_ticks:
        parts.append(line(x(tick), TOP, x(tick), HEIGHT - BOTTOM, grid))
        parts.append(text(x(tick), HEIGHT - BOTTOM + 20, f"{tick:,.0f}"))
    for tick in y_ticks:
        parts.append(line(LEFT, y(tick), WIDTH - RIGHT, y(tick), grid))
        parts.append(text(LEFT - 8, y(tick) + 4, duration(tick), "end"))
    labels = []
    for name, label, colour, dashes in known:
        path = sorted(figures[name].items())
        places = " ".join(f"{x(size):.1f},{y(seconds):.1f}" for size, seconds in path)
        width = 3 if name == "supervisor" else 1.5
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" '
            f'stroke-width="{width}" stroke-dasharray="{dashes}"/>'
        )
        for size, seconds in path:
            parts.append(f'<circle cx="{x(size):.1f}" cy="{y(seconds):.1f}" r="2.5" fill="{colour}"/>')
        size, seconds = path[-1]
        labels.append((y(seconds), x(size), label, colour))
    for place, end, label, colour in spread(labels, 16):
        parts.append(text(end + 8, place + 4, label, "start", fill=colour))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--criterion", type=Path, default=criterion_directory())
    parser.add_argument("--group", default="peers")
    parser.add_argument("--limit", default="channels", help="the benchmark that is the limit")
    parser.add_argument("--out", type=Path, help="where the picture goes; none if left out")
    parser.add_argument("--counted", default="sessions", help="what is in the first column")
    options = parser.parse_args()
    figures = read(options.criterion / options.group)
    if not figures:
        parser.error(f"nothing was measured: no estimates below {options.criterion / options.group}")
    if options.out:
        options.out.write_text(svg(figures))
    print(table(figures, options.limit, options.counted))
    print(growth(figures, options.limit))


if __name__ == "__main__":
    main()
