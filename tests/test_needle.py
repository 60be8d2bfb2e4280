"""Needle scenes: everything follows from the seed, and what the sample says is what the pixels show."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from infogap.data.needle import COLOURS, NeedleConfig, make_sample, make_samples, make_scene
from infogap.data.needle_shards import write_needle_shards
from infogap.data.shards import find_shards, read_samples
from infogap.data.skips import SkipLog
from infogap.geometry import check_nested


def test_a_sample_follows_from_seed_and_index() -> None:
    first, again, other = (make_sample(NeedleConfig(), seed, 3) for seed in (5, 5, 6))
    assert first.image.data == again.image.data
    assert (first.question, first.answer, first.evidence) == (again.question, again.answer, again.evidence)
    assert first.image.data != other.image.data


def test_canvases_are_large_by_default() -> None:
    for sample in make_samples(NeedleConfig(), 0, 4):
        assert all(448 <= side <= 672 for side in sample.image.size)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_show_what_they_say(seed: int) -> None:
    scene = make_scene(NeedleConfig(), np.random.default_rng(seed))
    pixels = np.asarray(scene.image).astype(int)
    assert len({sign.colour for sign in scene.signs}) == len(scene.signs) >= 2
    for sign in scene.signs:
        check_nested(sign.boxes)
        glyph, box, panel = sign.boxes
        cut = pixels[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)]
        fill = np.median(cut.reshape(-1, 3), axis=0)
        assert np.abs(fill - COLOURS[sign.colour]).max() <= 12  # the sign has its colour
        ink = np.abs(cut - fill).sum(-1) > 200
        rows, columns = np.nonzero(ink)
        # all ink of the sign, and only a pixel's margin, lies in the digit's box
        assert rows.min() + box.y1 >= glyph.y1 - 1
        assert rows.max() + box.y1 <= glyph.y2
        assert columns.min() + box.x1 >= glyph.x1 - 1
        assert columns.max() + box.x1 <= glyph.x2
        around = pixels[int(panel.y1), int(panel.x1)]
        assert around.max() - around.min() <= 2  # panels are grey


def test_an_attribute_question_asks_for_one_sign() -> None:
    for sample in make_samples(NeedleConfig(), 1, 10):
        asked = sample.metadata["asked"]
        digits = {sign["colour"]: sign["digit"] for sign in sample.metadata["signs"]}
        assert len(asked) == len(sample.evidence) == 1
        assert asked[0] in sample.question
        assert sample.answer == digits[asked[0]]
        assert sample.answer in sample.options


def test_a_relation_question_needs_two_signs() -> None:
    answers = set()
    for sample in make_samples(NeedleConfig(question="relation"), 2, 30):
        first, second = sample.metadata["asked"]
        digits = {sign["colour"]: int(sign["digit"]) for sign in sample.metadata["signs"]}
        assert len(sample.evidence) == 2
        assert sample.answer == ("yes" if digits[first] > digits[second] else "no")
        answers.add(sample.answer)
    assert answers == {"yes", "no"}


def test_scenes_can_be_8k() -> None:
    sample = make_sample(NeedleConfig(sides=(7680,), clutter=1), 0, 0)
    assert sample.image.size == (7680, 7680)


def test_shards_hold_the_samples(tmp_path: Path) -> None:
    write_needle_shards(NeedleConfig(), tmp_path / "train", count=3, seed=9)
    read = list(read_samples(find_shards(tmp_path / "train"), SkipLog(strict=True)))
    made = list(make_samples(NeedleConfig(), 9, 3))
    assert [s.image.data for s in read] == [s.image.data for s in made]
    assert [(s.key, s.question, s.answer, s.evidence) for s in read] == [
        (s.key, s.question, s.answer, s.evidence) for s in made
    ]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"sides": (100,)}, "sides"),
        ({"sides": (9000,)}, "sides"),
        ({"signs": (1, 3)}, "signs"),
        ({"question": "x"}, "question"),
        ({"glyph_height": (36, 30)}, "glyph_height"),
        ({"sign_scale": (0.5, 1.5)}, "sign_scale"),
        ({"panel_scale": (0.5, 0.6)}, "panel_scale"),
        ({"sides": (224,), "glyph_height": (100, 120)}, "sides .* a panel may have a side of 354: give larger"),
        ({"clutter": -3}, "clutter"),
        ({"jpeg_quality": 500}, r"clutter is 12 and needle\.jpeg_quality 500"),
    ],
)
def test_impossible_scenes_are_refused(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=rf"needle\.{named}"):
        NeedleConfig(**values)  # type: ignore[arg-type]


def test_every_scene_has_the_fewest_signs_or_is_refused() -> None:
    crowded = NeedleConfig(sides=(224,), signs=(2, 3))
    assert all(len(make_scene(crowded, np.random.default_rng(seed)).signs) >= 2 for seed in range(60))
    full = NeedleConfig(sides=(224,), signs=(6, 6), glyph_height=(60, 60))
    message = "needle.signs is (6, 6), but a canvas of (224,) pixels a side has no room for 6 panels"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_scene(full, np.random.default_rng(0))
