"""Policies whose use of crops is known get the numbers that are known, through the evaluation's own engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from PIL import Image
from scripted import answer, call, has_tool, number_in, play, predictions, read_digit, scenes, spot

from infogap.episode.environment import EpisodeLimits
from infogap.evaluation.arms import PlayConfig
from infogap.evaluation.bootstrap import Bootstrap, Estimate
from infogap.evaluation.probes import probe
from infogap.evaluation.sheet import build_sheets
from infogap.geometry import Box
from infogap.rollout import CropConfig

ROWS = 60
EVERYTHING = PlayConfig(
    arms=("no_image", "no_tool", "own", "gt", "noise", "random", "other", "gt_only"),
    views=(16,),
    crop=CropConfig(max_tokens=4, min_tokens=4),  # smaller than the view, so that a script can tell them apart
)


def probes(script: object, patch: pytest.MonkeyPatch) -> Mapping[str, Estimate]:
    found = predictions(play(script, EVERYTHING, scenes(ROWS), patch))  # type: ignore[arg-type]
    sheets = build_sheets(found, Bootstrap([p.cluster for p in found]))
    return probe(sheets["16"])


def crop_of(prompt: str, images: list[Image.Image]) -> Image.Image | None:
    return images[1] if len(images) > 1 else None


def test_a_policy_that_ignores_its_crops_depends_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def ignore(prompt: str, images: list[Image.Image]) -> str:
        number = number_in(prompt)
        if has_tool(prompt) and crop_of(prompt, images) is None:
            return call(spot(number + 5))
        return answer(number * 3 % 10 if images and number % 2 else "none")

    found = probes(ignore, monkeypatch)
    for name in ("crop_dependence", "gt_dependence", "crop_gain", "crop_specificity", "content_reliance"):
        assert found[name].value == 0, name
        low, high = found[name].interval
        assert low <= 0 <= high
    assert found["leakage"].value == 0


def test_an_oracle_closes_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def oracle(prompt: str, images: list[Image.Image]) -> str:
        crop = crop_of(prompt, images) if has_tool(prompt) else None
        if has_tool(prompt) and crop is None:
            return call(spot(number_in(prompt)))
        shown = crop or (images[0] if images else None)
        return answer(read_digit(shown) if shown is not None and shown.width < 100 else None)

    found = probes(oracle, monkeypatch)
    assert found["gap_closure"].value == 1
    assert found["gap_closure"].interval == (1, 1)
    assert found["crop_dependence"].value == found["gt_dependence"].value == found["crop_gain"].value == 1
    assert found["gt_minus_own"].value == 0
    assert found["dual_view_gap"].value == 1
    assert found["crop_specificity"].value > 0.8  # a random region seldom has the spot in its middle
    assert found["content_reliance"].value > 0.8
    assert found["leakage"].value == 0
    assert found["tool_only_solved"].value == 1


def test_a_policy_that_knows_the_answers_by_heart_leaks_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(prompt: str, images: list[Image.Image]) -> str:
        number = number_in(prompt)
        if has_tool(prompt) and crop_of(prompt, images) is None:
            return call(spot(number))
        return answer(number * 3 % 10)

    found = probes(memory, monkeypatch)
    assert found["leakage"].value == 1
    for name in ("crop_dependence", "crop_gain", "crop_specificity", "content_reliance", "dual_view_gap"):
        assert found[name].value == 0, name
    assert found["tool_only_solved"].value == 0


def test_a_policy_that_points_beside_the_evidence_closes_a_part_of_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(prompt: str, images: list[Image.Image]) -> str:
        number = number_in(prompt)
        if has_tool(prompt) and crop_of(prompt, images) is None:
            return call(spot(number) if number % 4 else Box(0, 504, 28, 560))
        crop = crop_of(prompt, images)
        return answer(read_digit(crop) if crop is not None else None)

    found = probes(careless, monkeypatch)
    assert found["gap_closure"].value == pytest.approx(0.75)
    assert found["gt_minus_own"].value == pytest.approx(0.25)
    low, high = found["gap_closure"].interval
    assert low < 0.75 < high


def test_what_arms_share_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fails comes back the same under every arm, so they part at the crop after it."""
    written: list[str] = []

    def stumble(prompt: str, images: list[Image.Image]) -> str:
        number = number_in(prompt)
        if len(images) > 1:
            written.append(answer(read_digit(images[-1])))
        else:
            written.append("<tool_call>{}</tool_call>" if not written else call(spot(number)))
        return written[-1]

    config = replace(EVERYTHING, arms=("own", "gt", "noise", "random", "other"), limits=EpisodeLimits(max_turns=3))
    outcomes = play(stumble, config, scenes(2)[1:], monkeypatch)
    assert len(written) == 2 + 5
    for outcome in outcomes:
        assert [turn.text for turn in outcome.episode.turns[:2]] == written[:2]
        assert outcome.episode.bad_calls == 1
        assert len(outcome.episode.turns) == 3


def test_an_arm_without_the_tool_cuts_nothing_whatever_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(EVERYTHING, arms=("no_tool", "gt_only", "no_image"))
    for outcome in play(lambda prompt, images: call(spot(1)), config, scenes(2), monkeypatch):
        assert outcome.episode.crops == []
        assert len(outcome.episode.turns) == 1
        assert outcome.crop_tokens == 0


@pytest.mark.parametrize("written", ["B", "<think>It is A.</think>\nB", "<answer>B</answer>"])
def test_under_the_official_prompt_what_is_written_is_the_answer(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(EVERYTHING, arms=("no_tool",), prompt="official")
    (official,) = play(lambda prompt, images: written, config, scenes(1), monkeypatch)
    assert official.answer == "B"
    (ours,) = play(lambda prompt, images: written, replace(config, prompt="protocol"), scenes(1), monkeypatch)
    assert ours.answer == ("B" if "<answer>" in written else None)
