"""The page: one HTML file that needs nothing else, and runs nothing but its own script.

All that comes from a run stands in script elements of the type ``application/json``, which no browser executes, with
``<`` written as an escape, so that no text can end its element. The page forbids itself, by a Content-Security-Policy,
every connection and every script but its own. The list comes first: it can be used while the pictures are still read.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, TextIO

from infogap.episode.rewards import GroundingConfig, grounding_score
from infogap.geometry import TOKEN_SIDE, Size
from infogap.pictures.panels import EVIDENCE_COLOUR, TURN_COLOURS
from infogap.pictures.record import EpisodeRecord, TurnRecord
from infogap.viewer.entries import Entry
from infogap.viewer.pictures import Wanted, collect, numbers_of, region_of, sample_identity

SCRIPTS: Final = ("filters.js", "list.js", "panels.js", "episode.js", "page.js")
"""Parts of the page's script, in their order."""

CORRECT_COLUMN: Final = "accuracy"
"""Reward column that says whether an answer is right: above 0, as in LFPC section 3."""


def page_values(entries: Sequence[Entry], title: str, notice: str) -> tuple[dict[str, Any], list[Wanted]]:
    """What the page's script is told, as JSON values, and the pictures that it refers to by number.

    Args:
        entries: the episodes; those of a group in a row.
        title: name of the run.
        notice: one sentence that the page shows on top; empty for none.
    """
    wanted = collect(entry.record for entry in entries)
    samples = numbers_of(wanted)
    names = dict.fromkeys(name for entry in entries for name in entry.record.rewards)
    groups: dict[str, int] = {}
    for entry in entries:
        groups.setdefault(entry.group, len(groups))
    values: dict[str, Any] = {
        "title": title,
        "notice": notice,
        "tokenSide": TOKEN_SIDE,
        "turnColours": [_css(colour) for colour in TURN_COLOURS],
        "evidenceColour": _css(EVIDENCE_COLOUR),
        "rewards": list(names),
        "facets": list(dict.fromkeys(name for entry in entries for name in entry.facets)),
        "samples": [_sample_values(needed.record) for needed in wanted],
        "episodes": [],
    }
    for entry in entries:
        number = samples[sample_identity(entry.record)]
        about = {"name": entry.name, "label": entry.label, "group": groups[entry.group], "sample": number}
        about |= {"facets": dict(entry.facets), "notes": list(entry.notes)}
        values["episodes"].append(about | _episode_values(entry.record, wanted[number]))
    return values, wanted


def write_page(file: TextIO, values: Mapping[str, Any], pictures: Iterable[dict[str, Any] | None]) -> None:
    """Write the page.

    Args:
        file: where to.
        values: see `page_values`.
        pictures: of each sample, in their order; None where there are none.
    """
    style, script = _resource("page.css"), "".join(map(_resource, SCRIPTS))
    script = f"'use strict';\n(() => {{\n{script}\n}})();\n"
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    head, body, tail = _resource("page.html").split("<!-- cut -->\n")
    file.write(head.replace("{{title}}", html.escape(str(values["title"]))).replace("{{policy}}", policy))
    file.write(f"<style>{style}</style>\n{body}")
    file.write(_inert("run", values))
    file.write(f"<script>{script}</script>\n")
    for number, found in enumerate(pictures):
        if found is not None:
            file.write(_inert(f"pictures-{number}", found))
    file.write(tail)


def _sample_values(record: EpisodeRecord) -> dict[str, Any]:
    return {
        "key": record.sample,
        "question": record.question,
        "options": list(record.options),
        "expected": record.expected_answer,
        "evidence": [[_corners(box.as_tuple()) for box in chain] for chain in record.evidence],
        "original": list(record.original_size),
    }


def _episode_values(record: EpisodeRecord, wanted: Wanted) -> dict[str, Any]:
    accuracy = record.rewards.get(CORRECT_COLUMN)
    score = grounding_score(record.crops, record.evidence, record.original_size, GroundingConfig())
    return {
        "step": record.rollout_step,
        "number": record.episode,
        "view": _view_values(record.view_size, wanted),
        "turns": [_turn_values(record, turn, wanted) for turn in record.turns],
        "answer": record.answer,
        "stop": "running" if record.stop_reason is None else record.stop_reason.value,
        "right": None if accuracy is None else accuracy > 0,
        "coverage": None if score is None else round(score.coverage, 4),
        "policyTokens": record.policy_tokens,
        "visualTokens": record.visual_tokens,
        "rewards": dict(record.rewards),
        "total": record.total,
        "advantage": record.advantage,
    }


def _view_values(size: Size | None, wanted: Wanted) -> dict[str, Any] | None:
    return None if size is None else {"size": list(size), "picture": wanted.views[size]}


def _turn_values(record: EpisodeRecord, turn: TurnRecord, wanted: Wanted) -> dict[str, Any]:
    region = region_of(record, turn)
    return {
        "text": turn.text,
        "observation": turn.observation,
        "error": turn.error,
        "crop": None if turn.crop is None else _corners(turn.crop.as_tuple()),
        "shown": None if turn.shown is None else list(turn.shown),
        "picture": None if region is None else wanted.regions[region],
    }


def _corners(corners: Iterable[float]) -> list[float]:
    """Corners of a box, to a hundredth of a pixel."""
    return [round(corner, 2) for corner in corners]


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _inert(name: str, values: Mapping[str, Any]) -> str:
    """JSON in an element that is not executed; without ``<`` no text in it can end the element or begin a comment."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _digest(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _resource(name: str) -> str:
    return files("infogap.viewer").joinpath(name).read_text(encoding="utf-8")
