"""An episode in the terminal: readable without colour and in 80 columns, two side by side where there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from infogap.ask.playing import Played
from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.geometry import Box, Size, visual_tokens
from infogap.pictures.record import EpisodeRecord, TurnRecord

LEAST_WIDTH: Final = 120
"""Columns of a terminal in which two episodes stand side by side."""

LABEL_WIDTH: Final = 8
GAP: Final = 4

Line = tuple[str, Text]
"""A label and what stands beside it."""


def show(console: Console, sample: Sample, played: Sequence[Played]) -> None:
    """Show what was asked, and one or two episodes.

    Args:
        console: where.
        sample: the image and the question.
        played: the episodes.
    """
    options = zip(sample.option_letters, sample.options, strict=True)
    listed = "   ".join(f"{letter}. {text}" for letter, text in options)
    asked = [("image", _plain(_image_text(sample.image))), ("question", _plain(sample.question))]
    console.print(_lines([*asked, *([("options", _plain(listed))] if listed else [])]))
    columns = [_lines([*_about(each), *_turns(each.record), *_ending(each)]) for each in played]
    if len(columns) > 1 and console.width >= LEAST_WIDTH:
        grid = Table.grid(padding=(0, GAP), expand=True)
        for _ in columns:
            grid.add_column(ratio=1)
        grid.add_row(*columns)
        console.print(Group("", grid))
    else:
        for column in columns:
            console.print(Group("", column))
    views = {each.record.view_size for each in played}
    if len(views) > 1:
        console.print("\nThe two were shown different views: --view-tokens gives both the same.", soft_wrap=True)
    console.print()


def show_files(console: Console, paths: Sequence[Path], prepared: float) -> None:
    """Show where things were written, and the time that no episode has taken.

    Args:
        console: where.
        paths: of the files.
        prepared: wall time of importing torch and what else is needed, and of reading settings, in seconds.
    """
    lines = [("written", _plain(str(path))) for path in paths]
    console.print(_lines([*lines, ("", _plain(f"({prepared:.1f} seconds of imports and settings before)"))]))


def _about(played: Played) -> Iterator[Line]:
    size = played.record.view_size
    yield "policy", Text(printable(played.policy), style="bold")
    yield "settings", _plain(played.settings)
    yield "view", _plain("none: it is asked without the image" if size is None else _size_text(size))


def _turns(record: EpisodeRecord) -> Iterator[Line]:
    for number, turn in enumerate(record.turns, 1):
        yield "", Text()
        yield f"turn {number}", Text("the policy wrote", style="dim")
        yield "  >", Text(printable(turn.text), style="cyan")
        if turn.came_back is not None:
            yield "", Text("and got back", style="dim")
            yield "  <", Text(printable(turn.came_back), style="yellow")
        if turn.crop is not None:
            yield "crop", _plain(_crop_text(turn.crop, turn))
        if turn.error is not None:
            yield "error", _plain(turn.error)
    yield "", Text()


def _ending(played: Played) -> Iterator[Line]:
    record = played.record
    answer = "none" if record.answer is None else record.answer or "empty"
    if played.right is not None:
        answer += f"   {'RIGHT' if played.right else 'WRONG'}, expected {record.expected_answer}"
    view = 0 if record.view_size is None else visual_tokens(record.view_size)
    yield "answer", Text(printable(answer), style="bold")
    yield "ended", _plain("not at all" if record.stop_reason is None else record.stop_reason.value)
    yield (
        "tokens",
        _plain(
            f"{record.policy_tokens} written, {record.visual_tokens} visual ({view} of the view, "
            f"{record.visual_tokens - view} of crops)"
        ),
    )
    yield "seconds", _plain(f"{played.play_seconds:.2f} playing, {played.load_seconds:.2f} loading")


def _image_text(image: HighResImage) -> str:
    width, height = image.size
    return f"{image.name}, {width} x {height} pixels, {visual_tokens(image.view_size(None))} tokens if shown whole"


def _size_text(size: Size) -> str:
    return f"{size.width} x {size.height} pixels, {visual_tokens(size)} tokens"


def _crop_text(box: Box, turn: TurnRecord) -> str:
    x1, y1, x2, y2 = (round(edge) for edge in box.as_tuple())
    shown = "not shown: no tokens were left" if turn.shown is None else f"shown as {_size_text(turn.shown)}"
    return f"({x1}, {y1}) to ({x2}, {y2}), {x2 - x1} x {y2 - y1} pixels of the image, {shown}"


def printable(text: str) -> str:
    """A text without what could steer a terminal: a policy may write anything."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def _plain(text: str) -> Text:
    return Text(printable(text))


def _lines(lines: Sequence[Line]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=LABEL_WIDTH, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in lines:
        grid.add_row(Text(label, style="dim"), text)
    return grid
