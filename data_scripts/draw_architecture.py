"""Draw docs/architecture.svg from the package's imports: rooms, who imports whom, and the way of a datum.

    python data_scripts/draw_architecture.py

The rooms and what they hold are read from the docstring of ``infogap/__init__.py``, the arrows from the imports of all
files. An arrow that follows from others is left out (transitive reduction). The same sources give the same bytes, so
that a test can see whether the picture is stale.
"""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "infogap"
PICTURE = ROOT / "docs" / "architecture.svg"

FLOW = (
    ("shards", "data/shards.py", "read_samples", "tar files: images stay compressed"),
    ("Sample", "data/sample.py", "Sample", "a question about one original"),
    ("prompt", "episode/protocol.py", "Protocol", "system text, a small view, the question"),
    ("episode", "rollout.py", "Rollout", "turns of text, crops of the original"),
    ("rewards", "episode/rewards.py", "RewardSet", "one column each, without weights"),
    ("advantages", "grpo/advantages.py", "compute_advantages", "within the group of one prompt"),
    ("packed rows", "policy/packing.py", "pack", "the prompt once, episodes as branches"),
    ("loss", "grpo/losses.py", "policy_loss", "sums over sampled tokens; one step"),
    ("metrics", "grpo/metrics.py", "Sums", "a fixed set of keys, over all ranks"),
)
"""The way of a datum: stage, file, what of it does the work, and what there is to say."""

BOX_WIDTH, BOX_HEIGHT, GAP, ROW = 138, 58, 20, 104
TOP, LEFT, FLOW_WIDTH = 56, 24, 276
STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de } text { font-family: system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 15px; font-weight: 600 } .name { font-size: 13px; font-weight: 600 }
  .note { font-size: 9.5px; fill: #57606a }
  .file { font-size: 10px; font-family: ui-monospace, monospace; fill: #0550ae }
  .plain { fill: #f6f8fa; stroke: #8c959f } .room { fill: #eaf2fd; stroke: #3b72b5 }
  .entry { fill: #fff4dd; stroke: #a8741a } .stage { fill: #e9f7ec; stroke: #3a8a4d }
  .arrow { fill: none; stroke: #6e7781; stroke-width: 1.2 } .head { fill: #6e7781 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 } .note { fill: #9da7b1 } .file { fill: #79b8ff }
    .plain { fill: #161b22; stroke: #6e7681 } .room { fill: #13233a; stroke: #4f8fdc }
    .entry { fill: #2e2413; stroke: #c9963a } .stage { fill: #12261a; stroke: #4fa867 }
    .arrow { stroke: #8b949e } .head { fill: #8b949e }
  }
"""


def rooms_of_docstring() -> tuple[list[dict[str, str]], list[str]]:
    """Lines of rooms in the package's docstring, each with what its rooms hold; and the rooms of the last one."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    lines = []
    for names, told in re.findall(r"^    ([a-z_]+(?:, [a-z_]+)*)  +(.+)$", docstring, re.MULTILINE):
        parts = told.split("; ")
        rooms = names.split(", ")
        lines.append(dict(zip(rooms, parts if len(parts) == len(rooms) else [told] * len(rooms), strict=True)))
    return lines, list(lines[-1])


def imported_by(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, those that it names in a string to be imported later included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "infogap":
            yield from (f"infogap.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Constant) and re.fullmatch(r"infogap(\.\w+)+", str(node.value)):
            yield str(node.value)


def imports_of_rooms(rooms: Sequence[str]) -> dict[str, set[str]]:
    """For every room the other rooms that its files import."""
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in found:
            used = {name.split(".")[1] for name in imported_by(path) if name.startswith("infogap.")}
            found[room] |= used & found.keys() - {room}
    return found


def reduced(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The edges without those that follow from others.

    Raises:
        ValueError: if rooms import each other.
    """

    def reached(room: str, path: tuple[str, ...] = ()) -> set[str]:
        if room in path:
            raise ValueError(f"The rooms {' -> '.join((*path, room))} import each other: take one import out.")
        return set().union(*({other} | reached(other, (*path, room)) for other in edges[room]))

    below = {room: reached(room) for room in edges}
    return {room: used - set().union(*(below[other] for other in used)) for room, used in edges.items()}


def layers_of(edges: Mapping[str, set[str]], first: Sequence[str], last: Sequence[str]) -> dict[str, int]:
    """The row of every room: below all that it imports; the plain rooms on top, the entry points at the bottom."""

    def depth(room: str, least: int) -> int:
        return max([least, *(rows[other] + 1 for other in edges[room])])

    rows = dict.fromkeys(first, 0)
    for least, group in ((1, set(edges) - {*first, *last}), (0, set(last))):
        floor = least or max(rows.values()) + 1
        while missing := sorted(group - rows.keys()):
            ready = [room for room in missing if edges[room] <= rows.keys()]
            rows |= {room: depth(room, floor) for room in ready}
    return rows


@dataclass
class Graph:
    """Rooms in rows. A long edge passes rows by way of a point in each, named by its ends and the row."""

    rows: list[list[str]]
    links: list[tuple[str, str]]  # from a lower row to the one above it
    paths: list[list[str]]  # every edge, from the importing room up
    places: dict[str, float]


def width_of(node: str) -> float:
    """Width of a room, or of a point that an edge passes."""
    return 12.0 if ">" in node else float(BOX_WIDTH)


def arrange(edges: Mapping[str, set[str]], row_of: Mapping[str, int]) -> Graph:
    """Give every room a place in its row, so that edges are short and seldom cross."""
    rows: list[list[str]] = [[] for _ in range(max(row_of.values()) + 1)]
    for room, row in row_of.items():
        rows[row].append(room)
    paths = []
    for room, other in sorted((room, other) for room, used in edges.items() for other in used):
        if row_of[room] == row_of[other]:
            continue
        between = [f"{room}>{other}>{row}" for row in range(row_of[room] - 1, row_of[other], -1)]
        for node in between:
            rows[int(node.rsplit(">", 1)[1])].append(node)
        paths.append([room, *between, other])
    graph = Graph(rows, [link for path in paths for link in pairwise(path)], paths, {})
    near: dict[str, list[str]] = {node: [] for row in rows for node in row}
    for one, other in graph.links:
        near[one].append(other)
        near[other].append(one)
    for row in rows:
        spread(graph, row, {node: float(place) for place, node in enumerate(sorted(row))})
    for sweep in range(60):
        for row in rows if sweep % 2 else rows[::-1]:
            wanted = {
                node: sum(graph.places[other] for other in near[node]) / len(near[node])
                if near[node]
                else graph.places[node]
                for node in row
            }
            spread(graph, row, wanted)
    return graph


def spread(graph: Graph, row: list[str], wanted: Mapping[str, float]) -> None:
    """Sort a row by where its nodes want to be, and push them apart as far as they need."""
    row.sort(key=lambda node: (wanted[node], node))
    places = [wanted[node] for node in row]
    for _ in range(200):
        for index, (left, right) in enumerate(pairwise(row)):
            lacking = (width_of(left) + width_of(right)) / 2 + GAP - (places[index + 1] - places[index])
            if lacking > 0:
                places[index] -= lacking / 2
                places[index + 1] += lacking / 2
    graph.places |= dict(zip(row, places, strict=True))


def draw_box(kind: str, left: float, top: float, name: str, note: str) -> str:
    """A box with a name and a few small words."""
    lines = textwrap.wrap(note, 27)[:3]
    middle, first = left + BOX_WIDTH / 2, top + BOX_HEIGHT / 2 + 4 - 6.5 * len(lines)
    centred = f'x="{middle:.0f}" text-anchor="middle"'
    text = [f'<text class="name" {centred} y="{first:.0f}">{escape(name)}</text>']
    text += [
        f'<text class="note" {centred} y="{first + 14 + 12 * number:.0f}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    box = f'<rect class="{kind}" x="{left:.0f}" y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/>'
    return "".join([box, *text])


def ports(graph: Graph) -> dict[tuple[str, str], tuple[float, float]]:
    """Where each link leaves its lower node and reaches its upper one: ends at one box are spread over its side."""
    found: dict[tuple[str, str], list[float]] = {link: [0.0, 0.0] for link in graph.links}
    for end in (0, 1):
        for node in {link[end] for link in graph.links}:
            links = sorted(
                (link for link in graph.links if link[end] == node), key=lambda link: graph.places[link[1 - end]]
            )
            step = min(18.0, (width_of(node) - 16) / max(len(links) - 1, 1)) if ">" not in node else 0.0
            for number, link in enumerate(links):
                found[link][end] = graph.places[node] + (number - (len(links) - 1) / 2) * step
    return {link: (one, other) for link, (one, other) in found.items()}


def draw_edges(graph: Graph, row_of: Mapping[str, int], shift: float) -> Iterator[str]:
    """Every edge as a curve that is vertical at its ends, with a head at the room that is imported."""
    ends = ports(graph)
    for path in graph.paths:
        row, drawn = row_of[path[0]], ""
        for lower, upper in pairwise(path):
            from_x, to_x = (x + shift for x in ends[lower, upper])
            from_y, to_y = TOP + row * ROW, TOP + (row - 1) * ROW + BOX_HEIGHT
            is_last = upper == path[-1]
            to_y += 5 if is_last else 0
            middle = (from_y + to_y) / 2
            drawn += f"{'L' if drawn else 'M'}{from_x:.0f} {from_y:.0f}"
            drawn += f"C{from_x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}"
            row -= 1
        title = f"<title>{path[0]} imports {path[-1]}</title>"
        yield f'<path class="arrow" d="{drawn}" marker-end="url(#head)">{title}</path>'


def draw_flow(left: float, height: float) -> Iterator[str]:
    """The way of a datum, from top to bottom.

    Raises:
        ValueError: if a file no longer defines what the picture names.
    """
    step = (height - 36) / len(FLOW)
    for number, (stage, file, symbol, note) in enumerate(FLOW):
        body = ast.parse((PACKAGE / file).read_text()).body
        if symbol not in {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}:
            raise ValueError(f"{file} defines no {symbol}: correct FLOW in data_scripts/draw_architecture.py.")
        top = TOP + number * step
        yield f'<rect class="stage" x="{left:.0f}" y="{top:.0f}" width="{FLOW_WIDTH}" height="56" rx="16"/>'
        yield f'<text class="name" x="{left + 16:.0f}" y="{top + 19:.0f}">{escape(stage)}</text>'
        yield f'<text class="file" x="{left + 16:.0f}" y="{top + 33:.0f}">{escape(file)} · {escape(symbol)}</text>'
        yield f'<text class="note" x="{left + 16:.0f}" y="{top + 47:.0f}">{escape(note)}</text>'
        if number:
            middle = left + FLOW_WIDTH / 2
            yield (
                f'<path class="arrow" d="M{middle:.0f} {top - step + 56:.0f}L{middle:.0f} {top - 5:.0f}" '
                'marker-end="url(#head)"/>'
            )


def draw() -> str:
    """The whole picture."""
    lines, entries = rooms_of_docstring()
    told = {room: note for line in lines for room, note in line.items()}
    plain = list(lines[0])
    edges = reduced(imports_of_rooms(list(told)))
    row_of = layers_of(edges, plain, entries)
    graph = arrange(edges, row_of)
    lowest = min(place - width_of(node) / 2 for node, place in graph.places.items())
    shift = LEFT - lowest
    right = max(place + width_of(node) / 2 for node, place in graph.places.items()) + shift
    height = TOP + (len(graph.rows) - 1) * ROW + BOX_HEIGHT + 24
    flow_left, width = right + 48, right + 48 + FLOW_WIDTH + LEFT
    boxes = []
    for room, row in row_of.items():
        kind = "plain" if room in plain else "entry" if room in entries else "room"
        note = "" if room in entries else re.sub(r" \(.*\)$", "", told[room])
        boxes.append(draw_box(kind, graph.places[room] + shift - BOX_WIDTH / 2, TOP + row * ROW, room, note))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="Rooms of infogap and the way of a datum">',
        "<!-- made by data_scripts/draw_architecture.py from the imports -->",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="3" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="10"/>',
        f'<text class="title" x="{LEFT}" y="34">Rooms: an arrow points to what is imported</text>',
        f'<text class="title" x="{flow_left:.0f}" y="34">The way of a datum</text>',
        *draw_edges(graph, row_of, shift),
        *boxes,
        *draw_flow(flow_left, height - TOP),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write the picture."""
    argparse.ArgumentParser(description="Draw docs/architecture.svg from the package's imports.").parse_args()
    PICTURE.write_text(draw())


if __name__ == "__main__":
    main()
