"""The engine of the evaluation with the shipped policy: what arms share, what they do not, and what it costs."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from infogap.data.images import HighResImage, ImageError
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.sample import Sample
from infogap.episode.environment import EpisodeLimits
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.evaluation.arms import DIRECT_ARMS, ArmName, Case, PlayConfig
from infogap.evaluation.engine import ArmPlayer, Outcome
from infogap.evaluation.measure import box_iou, to_prediction, unreadable_predictions
from infogap.evaluation.question import Question, Reading, UnreadableRow
from infogap.geometry import Box, Frame
from infogap.policy.draw import SamplingConfig
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.packing import Group, pack
from infogap.rollout import CropConfig, Rollout, RolloutConfig, ViewConfig

VALUES = yaml.safe_load((Path(__file__).parents[1] / "configs/protocol/needle.yaml").read_text())
PROTOCOL = Protocol(ProtocolConfig(**{**VALUES, "frame": Frame[VALUES["frame"]]}))
POLICY = load_policy(PolicyConfig(), PROTOCOL.config.turn_end_texts).requires_grad_(False)
LIMITS = EpisodeLimits(max_turns=2, max_crops=1, max_turn_tokens=24, max_episode_tokens=40)
CROP = CropConfig(25, 4)
ARMS: tuple[ArmName, ...] = ("no_image", "no_tool", "own", "gt", "noise", "random", "other", "gt_only")


def config(**fields: object) -> PlayConfig:
    values = {"arms": ARMS, "views": (64,), "crop": CROP, "limits": LIMITS} | fields
    return PlayConfig(**values)  # type: ignore[arg-type]


def make_cases(count: int = 6, seed: int = 31) -> list[Case]:
    samples = list(make_samples(NeedleConfig(), seed, count))
    return [case_of(sample, samples[number - 1].image) for number, sample in enumerate(samples)]


def case_of(sample: Sample, other: HighResImage | None = None) -> Case:
    return Case(Question(sample, "signs", sample.key, sample.question), other)


def play(cases: Sequence[Case], seed: int = 0, **fields: object) -> list[Outcome]:
    return ArmPlayer(POLICY, PROTOCOL, config(**fields), seed).play(cases).outcomes


def by_arm(outcomes: Sequence[Outcome], key: str) -> dict[str, Outcome]:
    return {outcome.arm: outcome for outcome in outcomes if outcome.case.question.key == key}


def texts(outcome: Outcome) -> list[str]:
    return [turn.text for turn in outcome.episode.turns]


def test_own_crops_and_direct_answers_are_those_of_a_plain_rollout() -> None:
    cases = make_cases()
    found = play(cases)
    rollout = RolloutConfig(view=ViewConfig("budget", 64), crop=CROP, limits=LIMITS).greedy()
    samples = [case.question.sample for case in cases]
    for arm, direct in (("own", False), ("no_tool", True)):
        expected = Rollout(POLICY, PROTOCOL, rollout, direct=direct).run(samples, (0,))
        for case, group in zip(cases, expected, strict=True):
            outcome = by_arm(found, case.question.key)[arm]
            assert outcome.episode == group.episodes[0]
            assert outcome.view_tokens + outcome.crop_tokens == group.visual_tokens[0]
            assert outcome.policy_tokens == group.policy_tokens[0]


@pytest.mark.parametrize("sampling", [SamplingConfig(0.0), SamplingConfig(1.0)], ids=["greedy", "sampled"])
def test_an_arm_leaves_the_text_before_the_first_crop_alone(sampling: SamplingConfig) -> None:
    parted = 0
    for case in (cases := make_cases(8)):
        arms = by_arm(play(cases, sampling=sampling), case.question.key)
        own = arms["own"].episode
        for arm in ("gt", "noise", "random", "other"):
            other = arms[arm].episode
            assert other.turns[0].text == own.turns[0].text
            assert other.turns[0].crop == own.turns[0].crop
            parted += texts(arms[arm])[1:] != texts(arms["own"])[1:]
            if not own.crops:
                assert other == own
    assert parted  # the arms do show different things


def test_what_is_played_does_not_depend_on_what_is_played_beside_it() -> None:
    cases = make_cases()
    together = play(cases, sampling=SamplingConfig(1.0))
    for case in cases[:2]:
        alone = by_arm(play([case], sampling=SamplingConfig(1.0)), case.question.key)
        beside = by_arm(together, case.question.key)
        assert {arm: outcome.episode for arm, outcome in alone.items()} == {a: o.episode for a, o in beside.items()}
        few = by_arm(play([case], arms=("noise",), sampling=SamplingConfig(1.0)), case.question.key)
        assert set(few) == {"noise"}  # its leader is played, and not reported
        assert few["noise"].episode == beside["noise"].episode


def test_attempts_differ_and_the_seed_decides_them() -> None:
    cases = make_cases(3)
    several = {"attempts": 3, "sampling": SamplingConfig(1.0), "arms": ("own", "noise", "no_tool")}
    first, again, other = play(cases, **several), play(cases, **several), play(cases, seed=1, **several)
    assert [o.episode for o in first] == [o.episode for o in again]
    assert [o.episode for o in first] != [o.episode for o in other]
    assert Counter((o.case.question.key, o.arm) for o in first).most_common()[-1][1] == 3
    calls = {o.episode.turns[0].text for o in first if o.arm == "own"}
    assert len(calls) > len(cases)


def test_arms_are_played_where_the_row_has_what_they_show() -> None:
    plain, boxed = make_cases(2)
    without_boxes = case_of(replace(plain.question.sample, evidence=()))  # and without another image
    found = play([without_boxes, boxed])
    assert set(by_arm(found, plain.question.key)) == set(ARMS) - {"gt", "gt_only", "other"}
    assert set(by_arm(found, boxed.question.key)) == set(ARMS)


def test_each_view_has_its_own_tokens() -> None:
    selected = [case_of(replace(c.question.sample, view_tokens=20), c.other) for c in make_cases(2)]
    found = play(selected, views=("selected", 9, 1024), arms=("own", "no_image", "gt_only"))
    tokens = {
        view: {o.view_tokens for o in found if o.view == view and o.arm == "own"} for view in ("selected", 9, 1024)
    }
    assert tokens == {"selected": {16}, 9: {9}, 1024: {256}}
    assert {o.view_tokens for o in found if o.arm == "no_image"} == {0}
    assert all(4 <= o.view_tokens <= 25 for o in found if o.arm == "gt_only")


def test_a_row_without_a_selected_view_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"has no selected view: run data_scripts/select_resolution\.py"):
        play(make_cases(1), views=("selected",))


def test_rows_that_share_an_image_decode_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the view, and once in full for the crops of all arms."""
    sample = make_cases(1)[0].question.sample
    rows = [case_of(replace(sample, key=f"form{number}")) for number in range(4)]
    decoded: list[str] = []
    load: Callable[..., None] = HighResImage._load
    monkeypatch.setattr(HighResImage, "_load", lambda self, image: (decoded.append(self.name), load(self, image))[1])
    found = play(rows, arms=("no_tool", "own", "gt", "random", "gt_only"))
    assert sum(bool(outcome.episode.crops) for outcome in found) > 4
    assert len(decoded) == 2


def test_an_original_that_its_view_does_not_show_to_be_broken_is_found_before_play(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A view may be decoded at a reduced scale, and the run must not stop at the first crop."""
    cases = make_cases(2)
    decode: Callable[..., Image.Image] = HighResImage.decode

    def fail(self: HighResImage) -> Image.Image:
        if self is cases[0].question.sample.image:
            raise ImageError("The image is corrupt.")
        return decode(self)

    monkeypatch.setattr(HighResImage, "decode", fail)
    played = ArmPlayer(POLICY, PROTOCOL, config(arms=("own",))).play(cases)
    assert [(row.key, row.reason) for row in played.unreadable] == [(cases[0].question.key, "The image is corrupt.")]
    assert {outcome.case.question.key for outcome in played.outcomes} == {cases[1].question.key}
    assert not ArmPlayer(POLICY, PROTOCOL, config(arms=("no_tool",))).play(cases).unreadable  # which needs no crop


def test_originals_that_were_cut_long_ago_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    crop: Callable[..., Image.Image] = HighResImage.crop
    cases = make_cases(8)
    images = [case.question.sample.image for case in cases]

    def cut(self: HighResImage, *args: object) -> Image.Image:
        shown = crop(self, *args)
        held.append(sum(image._original is not None for image in images))
        return shown

    monkeypatch.setattr(HighResImage, "crop", cut)
    play(cases, arms=("own", "gt"))
    assert max(held) == 8
    held.clear()
    monkeypatch.setattr("infogap.evaluation.driver.MOST_DECODED_PIXELS", 3 * 448 * 448)
    play(cases, arms=("own", "gt"))
    assert max(held) == 4  # three, and the one that is being cut
    assert all(image._original is None for image in images)  # nothing is kept at the end


def test_an_image_that_cannot_be_decoded_is_a_row_that_cannot_be_read() -> None:
    cases = make_cases(3)
    data = cases[1].question.sample.image.data
    corrupt = HighResImage(data[: len(data) // 2], name="half")
    cases[1] = case_of(replace(cases[1].question.sample, image=corrupt), cases[1].other)
    cases[2] = replace(cases[2], other=corrupt)
    played = ArmPlayer(POLICY, PROTOCOL, config()).play(cases)
    (row,) = played.unreadable
    assert (row.key, row.category, row.cluster) == (cases[1].question.key, "signs", cases[1].question.key)
    assert "half is corrupt or truncated" in row.reason
    assert {o.case.question.key for o in played.outcomes} == {cases[0].question.key, cases[2].question.key}
    assert "other" not in by_arm(played.outcomes, cases[2].question.key)


def test_another_image_that_cannot_be_decoded_costs_its_arm_alone() -> None:
    """Also where its own row is played later, or was played in an earlier run."""
    first = make_cases(1)[0]
    data = first.question.sample.image.data
    corrupt = HighResImage(data[: len(data) // 2], name="half")
    found = play([replace(first, other=corrupt)])
    assert {outcome.arm for outcome in found} == set(ARMS) - {"other"}


def test_arms_without_a_view_are_played_once_for_all_views(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    chunk = type(POLICY).chunk
    monkeypatch.setattr(type(POLICY), "chunk", lambda self, text, *a: (shown.append(text), chunk(self, text, *a))[1])
    found = play(make_cases(1), views=(64, 128, 256), arms=("no_image", "gt_only"))
    assert len(shown) == 2
    assert [(o.view, o.arm) for o in found] == [(v, a) for v in (64, 128, 256) for a in ("no_image", "gt_only")]


def test_all_pieces_of_evidence_are_shown_together() -> None:
    case = make_cases(1)[0]
    sample = case.question.sample
    two = replace(sample, evidence=((Box(10, 20, 40, 60),), (Box(300, 30, 320, 50), Box(290, 30, 330, 70))))
    image = DIRECT_ARMS["gt_only"]
    assert image is not None
    shown = image(config(crop=CropConfig(1024, 4)), case_of(two))
    assert shown is not None
    assert shown.tobytes() == sample.image.crop(Box(10, 20, 330, 70), 1024, 4).tobytes()


def test_only_an_arm_alone_has_a_time_of_its_own() -> None:
    cases = make_cases(2)
    assert {o.seconds for o in play(cases, arms=("no_tool", "own"))} == {None}
    alone = [o.seconds for o in play(cases, arms=("own",), attempts=2, sampling=SamplingConfig(1.0))]
    assert len(alone) == 4
    assert len(set(alone)) == 1
    assert alone[0] is not None
    assert 0 < alone[0] < 10


def test_the_official_prompt_is_shown_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_cases(1)[0]
    question = replace(case.question, official_prompt="Which?\nA. 3\nB. 4\nAnswer with a letter.")
    seen: list[str] = []
    chunk = type(POLICY).chunk
    monkeypatch.setattr(type(POLICY), "chunk", lambda self, text, *a: (seen.append(text), chunk(self, text, *a))[1])
    (outcome,) = play([replace(case, question=question)], prompt="official", arms=("no_tool",))
    (prompt,) = seen
    assert prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Which?\nA. 3\nB. 4\nAnswer with a letter.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert outcome.answer is not None or outcome.episode.truncated
    seen.clear()
    play([replace(case, question=question)], prompt="official", arms=("own",))
    assert "Which?\nA. 3\nB. 4\nAnswer with a letter." in seen[0]
    assert PROTOCOL.config.tool_system_prompt in seen[0]
    assert case.question.sample.question not in seen[0]


def test_information_gain_is_the_difference_of_separately_scored_answers() -> None:
    cases = make_cases(6)
    outcomes = [o for o in play(cases, information_gain=True) if o.arm == "own"]
    measured = [outcome for outcome in outcomes if outcome.gain is not None]
    assert [o.case.question.key for o in measured] == [o.case.question.key for o in outcomes if o.episode.crops]
    assert measured
    for outcome in measured:
        sample, (box,) = outcome.case.question.sample, outcome.episode.crops
        view = POLICY.patchifier(sample.image.view(64))
        prompt = POLICY.chunk(PROTOCOL.prompt(sample.question, sample.options, tool=True), [view])
        gold = PROTOCOL.answer_text(sample.answer)
        ids = POLICY.tokenizer(gold, add_special_tokens=False)["input_ids"]
        place = [POLICY.tokenizer.decode([i]) for i in ids].index(sample.answer)
        answer = replace(POLICY.chunk(gold), taught=(place,))
        crop = POLICY.patchifier(sample.image.crop(box, CROP.max_tokens, CROP.min_tokens))
        shown = POLICY.chunk(str(outcome.episode.turns[0].observation), [crop])
        call = POLICY.chunk(outcome.episode.turns[0].text)
        logprobs = [
            float(POLICY(pack([Group(prompt, (branch,))], POLICY.vocabulary.image), 1.0).taught_logprobs.mean())
            for branch in ((answer,), (call, shown, answer))
        ]
        assert outcome.gain is not None
        assert outcome.gain.own == pytest.approx(logprobs[1] - logprobs[0], abs=1e-3)
        assert outcome.gain.placebo is not None
        assert outcome.gain.placebo != outcome.gain.own


def test_nothing_global_is_drawn_or_changed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in POLICY.state_dict().items()}
    play(make_cases(2), sampling=SamplingConfig(1.0))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in POLICY.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"arms": ()}, r"play.arms is \[\]"),
        ({"arms": ("own", "own")}, "none twice"),
        ({"views": (64, 64)}, "none twice"),
        ({"views": (2,)}, "play.views holds 2"),
        ({"attempts": 0}, "play.attempts is 0"),
        ({"attempts": 2}, "greedy attempts are all the same"),
        ({"arms": ("no_tool",), "information_gain": True}, "needs the arm own"),
    ],
)
def test_a_play_that_means_nothing_is_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config(**fields)


def test_a_prediction_says_where_the_crops_were() -> None:
    case = make_cases(1)[0]
    (outcome,) = play([case], arms=("own",))
    sample, (crop,) = case.question.sample, outcome.episode.crops
    found = to_prediction(outcome, Reading(True, "3", "text"))
    assert (found.key, found.view, found.arm, found.correct, found.cluster) == (
        sample.key,
        "64",
        "own",
        True,
        sample.key,
    )
    assert found.crops == (crop.as_tuple(),)
    assert found.area_ratio == pytest.approx(crop.area / 448**2)
    assert found.evidence_ratio == pytest.approx(sample.evidence[0][0].area / 448**2)
    assert found.turns == tuple(texts(outcome))
    assert found.box_iou == pytest.approx(box_iou([crop], sample.evidence))


def test_box_iou_is_worked_by_hand() -> None:
    evidence = ((Box(0, 0, 10, 10),), (Box(100, 0, 110, 10), Box(90, 0, 120, 20)))
    crops = [Box(0, 0, 10, 20), Box(5, 0, 15, 10), Box(90, 0, 120, 20)]  # the third is the outer box of the second
    assert box_iou(crops, evidence) == pytest.approx((0.5 + 100 / 600) / 2)
    assert box_iou([], evidence) == 0
    assert box_iou([Box(0, 0, 1, 1)], ()) is None


def test_an_unreadable_row_is_counted_once_for_every_arm_that_needs_no_boxes() -> None:
    row = UnreadableRow("q7", "Row 7 of x.tsv is broken.", "maps")
    found = unreadable_predictions(row, config(views=(64, 128)))
    assert len(found) == 2 * 6
    assert {prediction.arm for prediction in found} == set(ARMS) - {"gt", "gt_only"}
    assert {(p.key, p.category, p.cluster, p.correct, p.method, p.reason) for p in found} == {
        ("q7", "maps", "q7", False, "unreadable", row.reason)
    }


def test_a_corrupt_file_does_not_end_with_the_sample() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((300, 300), 90).convert("RGB").save(buffer, "PNG")
    broken = HighResImage(buffer.getvalue()[:-2000], name="cut")
    sample = Sample("cut", broken, "What?", "3")
    played = ArmPlayer(POLICY, PROTOCOL, config(views=(64, 128))).play([case_of(sample)])
    assert played.outcomes == []
    assert [row.key for row in played.unreadable] == ["cut"]
