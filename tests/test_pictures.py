from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from infogap.data.drawing import BLACK, GAP, GREEN, LINE_HEIGHT, font, wrap
from infogap.data.images import HighResImage
from infogap.data.needle import NeedleConfig, make_sample
from infogap.data.sample import Sample
from infogap.geometry import Box, Size
from infogap.pictures.episode import BROWN, CROP_SIDE, INDENT, WIDTH, draw_episode
from infogap.pictures.panels import TURN_COLOURS, crop_as_shown, view_as_shown, whole_original
from infogap.pictures.record import records_of
from infogap.policy.packing import Chunk, Group
from infogap.policy.patches import Patches
from infogap.rollout import GroupRollout
from infogap.types import Episode, StopReason, Turn

SCORES = {"accuracy": 1.0, "format": 0.0, "tool": 1.0, "grounding": 0.25}
PLAIN, BLUE = (90, 120, 150), (0, 0, 250)


def patches(size: Size) -> Patches:
    return Patches(torch.zeros(1, 1), (size.height // 14, size.width // 14))


def play(sample: Sample, turns: Sequence[Turn], view_tokens: int = 256, **fields: Any) -> GroupRollout:
    """A group of one episode that was shown a view, and every crop with up to 64 tokens."""
    view = sample.image.view_size(view_tokens)
    chunks = [Chunk((1,), (patches(sample.image.crop_size(t.crop, 64, 16)),)) for t in turns if t.crop is not None]
    group = Group(Chunk((1,), (patches(view),)), (tuple(chunks),))
    episode = Episode(sample.key, list(turns), **({"stop_reason": StopReason.ANSWERED, "answer": "3"} | fields))
    return GroupRollout(sample, view, group, (episode,))


def draw(rollout: GroupRollout) -> np.ndarray:
    return np.asarray(draw_episode(records_of(rollout, [SCORES], [2.25])[0], rollout.sample.image))


def plain_sample(size: tuple[int, int] = (448, 448), evidence: tuple[Box, ...] = (), blue: Box | None = None) -> Sample:
    """An image of one colour, lossless, with a blue region."""
    image = Image.new("RGB", size, PLAIN)
    if blue is not None:
        image.paste(BLUE, tuple(map(int, blue.as_tuple())))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    chains = (evidence,) if evidence else ()
    return Sample("plain", HighResImage(buffer.getvalue()), "What is it?", "3", evidence=chains)


def spans(picture: np.ndarray, colour: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    """Box around all pixels of that colour in the left panels, and in the right ones: x1, y1, x2, y2, exclusive."""
    found = []
    middle = GAP + 448 + GAP // 2  # between two panels of 448 pixels
    for left, right in ((0, middle), (middle, picture.shape[1])):
        rows, columns = np.nonzero((picture[:, left:right] == colour).all(axis=2))
        if rows.size:
            found.append((columns.min() + left, rows.min(), columns.max() + left + 1, rows.max() + 1))
    return found


inside = st.tuples(st.integers(2, 400), st.integers(2, 400), st.integers(8, 40), st.integers(8, 40))


@settings(max_examples=12)
@given(inside)
def test_the_evidence_is_outlined_where_it_lies_on_the_original_and_on_the_view(place: tuple[int, ...]) -> None:
    x, y, width, height = place
    sample = plain_sample(evidence=(Box(x, y, x + width, y + height),))
    blank = draw(play(plain_sample(), [Turn("<answer>3</answer>")]))
    top = int(np.nonzero((blank == PLAIN).all(axis=2).sum(axis=1) >= 2 * 448)[0][0])  # first row of the panels

    for number, found in enumerate(spans(draw(play(sample, [Turn("<answer>3</answer>")])), GREEN)):
        left = GAP + number * (448 + GAP)  # both panels have 448 pixels, as the original
        assert found == (left + x - 1, top + y - 1, left + x + width + 1, top + y + height + 1)
        assert number < 2


def test_boxes_are_scaled_to_panels_that_are_smaller_than_the_image() -> None:
    sample = plain_sample((1024, 1024), evidence=(Box(200, 400, 600, 800),))
    x1, y1, x2, y2 = spans(draw(play(sample, [Turn("")], view_tokens=64)), GREEN)[0]  # 512 pixels, half the original
    assert (x1 - GAP, x2 - x1, y2 - y1) == (100 - 1, 200 + 2, 200 + 2)


def test_every_crop_has_the_colour_of_its_turn_and_stands_beside_it_as_it_was_shown() -> None:
    region = Box(100, 100, 212, 212)
    sample = plain_sample(blue=region)
    turns = [Turn("first", "shown", crop=Box(300, 300, 400, 400)), Turn("second", "shown", crop=region)]
    picture = draw(play(sample, turns))
    for colour in TURN_COLOURS[:2]:
        assert len(spans(picture, colour)) == 2
    assert not (picture == TURN_COLOURS[2]).all(axis=2).any()
    blue = (picture == BLUE).all(axis=2)
    last_panel = blue[-CROP_SIDE - 50 :, :CROP_SIDE]
    # 112 x 112 pixels were shown, drawn twice as large under a border of 2
    assert last_panel.sum() == (2 * 112 - 4) ** 2


def test_what_came_back_and_the_advantage_are_drawn_apart_from_what_was_sampled() -> None:
    sample = plain_sample()
    rollout = play(sample, [Turn("I", "<|im_end|>\n<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n")])
    (record,) = records_of(rollout, [SCORES], [2.25])
    full, silent, clean, said = (
        np.asarray(draw_episode(each, sample.image))
        for each in (
            record,
            replace(record, turns=(replace(record.turns[0], observation=None),)),
            replace(record, turns=(replace(record.turns[0], observation="No."),)),
            replace(record, turns=(replace(record.turns[0], text="I", observation="Yes."),)),
        )
    )
    assert full.shape[0] == silent.shape[0] + LINE_HEIGHT + 2
    assert (full == clean).all()  # without markup
    brown = (full == BROWN).all(axis=2)
    assert brown.sum() > 10
    assert not (silent == BROWN).all(axis=2).any()
    dark = (full == BLACK).all(axis=2)[-3 * LINE_HEIGHT :]
    left = np.nonzero(dark.any(axis=0))[0][0]
    assert np.nonzero(brown.any(axis=0))[0][0] >= left + INDENT // 2
    assert full.shape == said.shape
    assert (full != said).any()
    gained = np.asarray(draw_episode(replace(record, advantage=-0.5), sample.image))
    assert gained.shape[0] == full.shape[0] + LINE_HEIGHT + 2


def test_the_view_is_as_coarse_as_the_policy_saw_it() -> None:
    sample = make_sample(NeedleConfig(), 0, 0)
    rollout = play(replace(sample, evidence=()), [Turn("<answer>3</answer>")], view_tokens=16)
    seen = np.asarray(sample.image.view(16)).repeat(4, axis=0).repeat(4, axis=1)
    picture = draw(rollout)
    left = GAP + 448 + GAP
    tops = [t for t in range(200) if (picture[t : t + 448, left : left + 448] == seen).all()]
    assert len(tops) == 1


def test_drawing_changes_nothing_and_repeats_itself() -> None:
    sample = make_sample(NeedleConfig(), 0, 0)
    rollout = play(sample, [Turn("look", "shown", crop=sample.evidence[0][2]), Turn("<answer>3</answer>")])
    episode = replace(rollout.episodes[0], turns=list(rollout.episodes[0].turns))
    assert (draw(rollout) == draw(rollout)).all()
    assert rollout.episodes[0] == episode


def test_the_original_is_decoded_once_for_all_episodes_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = make_sample(NeedleConfig(), 0, 0)
    rollout = play(sample, [Turn("a", "b", crop=sample.evidence[0][2]), Turn("c", "d", crop=sample.evidence[0][1])])
    decoded, load = [], HighResImage._load
    monkeypatch.setattr(HighResImage, "_load", lambda self, image: (decoded.append(image.size), load(self, image)))
    draw(rollout)
    assert decoded == [(448, 448), (448, 448)]  # the original, and the view (at reduced scale where there is one)
    draw(rollout)
    assert len(decoded) == 3


@pytest.mark.parametrize(
    "text",
    ["", "word " * 2000, "x" * 5000, "\n\n\n", "\x00\x1b[0m\ud800\t", "красный знак 红色 🚦", "  indented"],
    ids=["empty", "long", "no spaces", "newlines", "control", "other scripts", "spaces"],
)
def test_any_text_can_be_drawn(text: str) -> None:
    sample = plain_sample()
    turns = [Turn(text, text, error=text), Turn(text, text, crop=Box(0, 0, 448, 448)), Turn(text)]
    picture = draw(play(sample, turns, answer=text))
    assert picture.shape[1] == WIDTH + 2 * GAP
    assert picture.shape[0] < 3000


def test_unfinished_episodes_and_crops_that_were_never_shown_are_drawn() -> None:
    sample = plain_sample()
    rollout = play(sample, [Turn("look", "shown", crop=Box(0, 0, 100, 100))], stop_reason=None, answer=None)
    unseen = replace(rollout, group=Group(rollout.group.prompt, ((),)))
    assert draw(unseen).shape[0] < draw(rollout).shape[0] - 100


def test_without_a_view_only_the_original_is_drawn() -> None:
    sample = plain_sample()
    rollout = play(sample, [Turn("<answer>3</answer>")])
    blind = replace(rollout, group=Group(Chunk((1,)), ((),)))
    assert (draw(rollout) == PLAIN).all(axis=2).sum() == 2 * 448**2
    assert (draw(blind) == PLAIN).all(axis=2).sum() == 448**2


def test_extreme_aspects_can_be_drawn() -> None:
    sample = plain_sample((2800, 30), evidence=(Box(10, 10, 20, 20),))
    picture = draw(play(sample, [Turn("look", "shown", crop=Box(0, 0, 2800, 28)), Turn("x")]))
    assert len(spans(picture, TURN_COLOURS[0])) == 2


def test_what_is_not_known_is_left_out() -> None:
    sample = plain_sample()
    (record,) = records_of(play(sample, [Turn("x")]), [SCORES], [2.25])
    full, bare = (draw_episode(r, sample.image) for r in (record, replace(record, rewards={}, total=None)))
    assert full.height - bare.height == LINE_HEIGHT + 2


def test_a_crop_of_unknown_size_is_drawn() -> None:
    sample = plain_sample(blue=Box(100, 100, 212, 212))
    (record,) = records_of(play(sample, [Turn("a", "b", crop=Box(100, 100, 212, 212))]), [SCORES], [2.25])
    old = replace(record, turns=(replace(record.turns[0], shown=None),))
    assert not old.says_what_was_shown
    picture = np.asarray(draw_episode(old, sample.image))
    assert (picture[-CROP_SIDE - 50 :, :CROP_SIDE] == BLUE).all(axis=2).sum() == (2 * 112 - 4) ** 2


# What the policy was shown, made again


@functools.cache
def noise(width: int, height: int, kind: str) -> HighResImage:
    """An image of which no two regions are alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return HighResImage(buffer.getvalue())


shapes = st.sampled_from([(448, 448, "PNG"), (700, 333, "JPEG"), (1500, 90, "PNG"), (31, 640, "JPEG")])
budgets = st.tuples(st.integers(1, 300), st.integers(1, 64))


@settings(max_examples=60, deadline=None)
@given(shapes, budgets, st.data())
def test_views_and_crops_are_those_that_the_policy_saw(
    shape: tuple[int, int, str], budget: tuple[int, int], data: st.DataObject
) -> None:
    image = noise(*shape)
    most, fewest = max(budget), min(budget)
    view = image.view(most, fewest)
    assert (np.asarray(view_as_shown(image, Size(*view.size))) == np.asarray(view)).all()
    x, y = data.draw(st.floats(0, shape[0] - 4)), data.draw(st.floats(0, shape[1] - 4))
    width, height = data.draw(st.floats(2, shape[0])), data.draw(st.floats(2, shape[1]))
    box = Box(x, y, x + width, y + height).clamp(image.size)
    crop = image.crop(box, most, fewest)
    assert (np.asarray(crop_as_shown(image, box, Size(*crop.size))) == np.asarray(crop)).all()


def test_a_size_that_no_budget_leads_to_is_kept() -> None:
    image = noise(448, 448, "PNG")
    assert view_as_shown(image, Size(28, 280)).size == (28, 280)
    assert crop_as_shown(image, Box(0, 0, 100, 100), Size(280, 28)).size == (280, 28)


@pytest.mark.parametrize(("side", "size"), [(1000, (700, 333)), (350, (350, 166)), (2, (2, 1))])
def test_the_original_fits_into_its_panel(side: int, size: tuple[int, int]) -> None:
    assert whole_original(noise(700, 333, "JPEG"), side).size == size


@settings(max_examples=50)
@given(st.text(alphabet="ab \n", max_size=300), st.integers(20, 200))
def test_wrapped_lines_fit_and_lose_no_letter(text: str, width: int) -> None:
    lines = list(wrap(text, width))
    assert all(font().getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
