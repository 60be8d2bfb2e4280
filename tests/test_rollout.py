from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from tiny import Script, tiny_policy

from infogap.data.sample import Sample
from infogap.episode.environment import EpisodeLimits
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.geometry import Box, Size
from infogap.policy.cache import SlotCache
from infogap.policy.draw import SamplingConfig
from infogap.policy.memory import GIB, MemoryShortageError, token_bytes
from infogap.policy.packing import Chunk, Group
from infogap.policy.sampler import Sampler
from infogap.rollout import CropConfig, GroupRollout, Rollout, RolloutConfig, ViewConfig, derive_seed
from infogap.types import StopReason

POLICY = tiny_policy()
PROTOCOL = Protocol(ProtocolConfig(tool_system_prompt="Tool.", direct_system_prompt="Direct.", tool_reminder=""))
MakeSample = Callable[..., Sample]
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 28, 28]}}</tool_call>'
ANSWER = "<answer>7</answer><|im_end|>"


def settings(group_size: int = 2, *, temperature: float = 1.0, **limits: Any) -> RolloutConfig:
    return RolloutConfig(
        group_size,
        ViewConfig("budget", budget=8),
        CropConfig(max_tokens=6, min_tokens=2),
        EpisodeLimits(**{"max_turn_tokens": 120, "max_episode_tokens": 400} | limits),
        SamplingConfig(temperature),
    )


@pytest.fixture
def sample(make_sample: MakeSample) -> Sample:
    return make_sample("scene", size=(448, 224), answer="7")


@pytest.fixture
def say() -> Iterator[Callable[..., Script]]:
    """Make every episode write the given turns, one after the other."""
    scripts: list[Script] = []

    def write(*turns: str) -> Script:
        scripts.append(Script(POLICY, [token for text in turns for token in POLICY.chunk(text).token_ids]))
        return scripts[-1]

    yield write
    for script in scripts:
        script.handle.remove()


def run(config: RolloutConfig, *samples: Sample, seed: int = 0, **fields: Any) -> list[GroupRollout]:
    return Rollout(POLICY, PROTOCOL, config, **fields).run(samples, (seed, "test"))


def test_an_episode_looks_and_answers(sample: Sample, say: Callable[..., Script]) -> None:
    script = say(CALL, ANSWER)
    (rollout,) = run(settings(temperature=0.0), sample)
    assert not script.token_ids
    assert rollout.view == Size(112, 56)  # 4 x 2 tokens
    assert len(rollout.episodes) == 2
    for episode, chunks in zip(rollout.episodes, rollout.group.episodes, strict=True):
        assert episode.stop_reason is StopReason.ANSWERED
        assert episode.answer == "7"
        assert episode.crops == [Box(0, 0, 112, 112)]
        assert [chunk.sampled for chunk in chunks] == [True, False, True]
        texts = [POLICY.tokenizer.decode(chunk.token_ids).replace("<|image_pad|>" * 4, "IMAGE") for chunk in chunks]
        assert texts[0] == CALL
        # the call did not end in the stop token, so the observation brings it
        assert texts[1].startswith("<|im_end|>\n<|im_start|>user\n<tool_response>The region [0, 0, 28, 28] of")
        assert texts[1].endswith(
            "<|vision_start|>IMAGE<|vision_end|></tool_response><|im_end|>\n<|im_start|>assistant\n"
        )
        assert texts[2] == ANSWER
    assert rollout.visual_tokens == [8 + 4, 8 + 4]  # a square of at most 6 tokens has 4
    length = len(POLICY.chunk(CALL).token_ids) + len(POLICY.chunk(ANSWER).token_ids)
    assert rollout.policy_tokens == [length, length]


def test_the_tool_decides_what_a_crop_shows(sample: Sample, say: Callable[..., Script]) -> None:
    class Black:
        def look(self, sample: Sample, box: Box) -> Image.Image:
            return Image.new("RGB", (84, 28))

    say(CALL, ANSWER)
    (rollout,) = run(settings(1, temperature=0.0), sample, tool=Black())
    (crop,) = rollout.group.episodes[0][1].images
    assert crop.grid == (2, 6)
    assert crop.values.std(dim=0).abs().max() < 1e-6  # one colour
    assert rollout.visual_tokens == [8 + 3]


def test_a_failed_call_brings_text_and_no_image(sample: Sample, say: Callable[..., Script]) -> None:
    say("<tool_call>nonsense</tool_call>", ANSWER)
    (rollout,) = run(settings(1, temperature=0.0), sample)
    assert rollout.episodes[0].bad_calls == 1
    assert rollout.episodes[0].crops == []
    assert rollout.group.episodes[0][1].images == ()
    assert rollout.visual_tokens == [8]


def test_direct_episodes_have_one_turn_and_no_tool(sample: Sample, say: Callable[..., Script]) -> None:
    say(CALL)
    (rollout,) = run(settings(1, temperature=0.0), sample, direct=True)
    assert rollout.episodes[0].stop_reason is StopReason.MAX_TURNS
    assert rollout.episodes[0].crops == []
    prompt = POLICY.tokenizer.decode(rollout.group.prompt.token_ids)
    assert "Direct." in prompt
    assert "Tool." not in prompt


def test_without_a_view_there_is_no_image(sample: Sample) -> None:
    config = settings(max_turn_tokens=4)
    config.view = ViewConfig("none")
    (rollout,) = run(config, sample)
    assert rollout.group.prompt.images == ()
    assert POLICY.vocabulary.image not in rollout.group.prompt.token_ids
    assert rollout.visual_tokens == [0, 0]
    assert rollout.view == Size(448, 224)  # what its boxes would refer to


def test_the_selected_view_is_the_samples_own(make_sample: MakeSample) -> None:
    config = settings(1, max_turn_tokens=2)
    config.view = ViewConfig("selected")
    small, large = (make_sample(str(tokens), size=(448, 224), view_tokens=tokens) for tokens in (8, 32))
    assert [rollout.visual_tokens for rollout in run(config, small, large)] == [[8], [32]]
    with pytest.raises(ValueError, match=re.escape("Sample none has no selected view: run data_scripts/select_resol")):
        run(config, make_sample("none"))


def test_episodes_that_run_out_of_tokens_are_truncated(sample: Sample, say: Callable[..., Script]) -> None:
    say("a" * 5)
    (rollout,) = run(settings(1, temperature=0.0, max_turn_tokens=5), sample)
    assert rollout.episodes[0].stop_reason is StopReason.MAX_TOKENS
    assert rollout.episodes[0].turns[0].text == "aaaaa"
    assert rollout.policy_tokens == [5]


def test_a_call_that_uses_the_last_token_is_truncated_too(sample: Sample, say: Callable[..., Script]) -> None:
    say(CALL)
    length = len(POLICY.chunk(CALL).token_ids)
    (rollout,) = run(settings(1, temperature=0.0, max_turn_tokens=length, max_episode_tokens=length), sample)
    assert rollout.episodes[0].stop_reason is StopReason.MAX_TOKENS
    assert [chunk.sampled for chunk in rollout.group.episodes[0]] == [True]


def test_an_answer_that_uses_the_last_token_counts(sample: Sample, say: Callable[..., Script]) -> None:
    say(ANSWER)
    length = len(POLICY.chunk(ANSWER).token_ids)
    (rollout,) = run(settings(1, temperature=0.0, max_turn_tokens=length, max_episode_tokens=length), sample)
    assert rollout.episodes[0].stop_reason is StopReason.ANSWERED
    assert rollout.episodes[0].answer == "7"


def test_episodes_follow_from_the_seed(make_sample: MakeSample) -> None:
    samples = [make_sample(name, size=(84, 56)) for name in ("one", "two")]
    config = settings(4, max_turn_tokens=6)

    def texts(seed: int) -> list[list[str]]:
        return [[e.turns[0].text for e in rollout.episodes] for rollout in run(config, *samples, seed=seed)]

    first = texts(1)
    assert texts(1) == first
    assert texts(2) != first
    assert len({text for group in first for text in group}) == 8  # no two episodes share their numbers


def test_originals_are_let_go(sample: Sample, say: Callable[..., Script]) -> None:
    say(CALL, ANSWER)
    run(settings(1, temperature=0.0), sample)
    assert sample.image._original is None


def test_a_greedy_run_has_one_episode_a_sample() -> None:
    config = settings(8).greedy()
    assert config.group_size == 1
    assert config.sampling.temperature == 0
    assert config.limits.max_turn_tokens == 120


def test_seeds_depend_on_every_part() -> None:
    seeds = {derive_seed(1, 2, 3), derive_seed(12, 3), derive_seed(1, 23), derive_seed(1, 2, 4), derive_seed("1", 2)}
    assert len(seeds) == 5
    assert derive_seed(1, 2, 3) == 0x9DE93CAF7D8D2A94 >> 1  # of `printf 1/2/3 | sha256sum`
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViewConfig(min_tokens=0), "view.min_tokens 0 and view.budget 1024: give 1 <= min <= budget."),
        (lambda: ViewConfig(budget=3), "view.min_tokens 4 and view.budget 3: give 1 <= min <= budget."),
        (lambda: CropConfig(max_tokens=8), "crop.min_tokens 16, crop.max_tokens 8: give 1 <= min <= max."),
        (lambda: RolloutConfig(group_size=0), "rollout.group_size is 0: give at least 1"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_groups_that_do_not_fit_together_are_played_in_waves_and_nothing_changes(
    make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [make_sample(f"scene{number}", size=(448, 224), answer="7") for number in range(3)]
    config = settings(max_turn_tokens=12, max_episode_tokens=30)
    sizes: list[int] = []
    play = Sampler.run

    def noted(self: Sampler, prompts: Sequence[Chunk], *rest: Any) -> list[Group]:
        sizes.append(len(prompts))
        return play(self, prompts, *rest)

    monkeypatch.setattr(Sampler, "run", noted)
    together = run(config, *samples)
    prompt = max(len(rollout.group.prompt.token_ids) for rollout in together)
    group = (prompt + 2 * Rollout(POLICY, PROTOCOL, config).capacity) * token_bytes(POLICY)
    for groups, expected in ((2, [2, 1]), (1, [1, 1, 1])):
        sizes.clear()
        apart = run(replace(config, cache_gib=(groups + 0.5) * group / GIB), *samples)
        assert sizes == expected
        assert [rollout.episodes for rollout in apart] == [rollout.episodes for rollout in together]
    with pytest.raises(MemoryShortageError, match=r"raise rollout.cache_gib"):
        run(replace(config, cache_gib=0.5 * group / GIB), *samples)


def test_slots_have_room_for_the_longest_episode(
    sample: Sample, say: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[int] = []
    reserve = SlotCache.reserve

    def noted(self: SlotCache, length: int) -> None:
        rooms.append(self.capacity)
        reserve(self, length)
        rooms.append(self.capacity)

    monkeypatch.setattr(SlotCache, "reserve", noted)
    say(CALL, CALL, ANSWER)
    (rollout,) = run(settings(max_crops=2), sample)
    assert all(len(episode.crops) == 2 for episode in rollout.episodes)
    assert set(rooms) == {Rollout(POLICY, PROTOCOL, settings(max_crops=2)).capacity}  # they never grew
