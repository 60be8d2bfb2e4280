from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import IMAGE_TEXT, Script, Separate, observation, tiny_image, tiny_policy
from torch import Tensor

from infogap.policy.cache import SlotCache
from infogap.policy.draw import SamplingConfig
from infogap.policy.packing import Chunk, Group, pack
from infogap.policy.sampler import SampledTurn, Sampler, TokenLimits

POLICY = tiny_policy()
STOP, TURN_END, LETTER = POLICY.tokenizer.convert_tokens_to_ids(["<|im_end|>", "</tool_call>", "a"])
WARM = SamplingConfig(temperature=1.0)
LIMITS = TokenLimits(turn=4, episode=18)


def prompts() -> list[Chunk]:
    return [
        POLICY.chunk(f"look {IMAGE_TEXT} here", [tiny_image(3, 2, seed=1)]),
        POLICY.chunk("no image"),
        POLICY.chunk(f"{IMAGE_TEXT}{IMAGE_TEXT}?", [tiny_image(2, 2, seed=2), tiny_image(1, 5, seed=3)]),
    ]


def generators(groups: Sequence[int], size: int) -> list[list[torch.Generator]]:
    return [[torch.Generator().manual_seed(100 * group + each) for each in range(size)] for group in groups]


class Driver:
    """Brings observations of different sizes back to some episodes, a different number of times to each."""

    def __init__(self, names: Sequence[int]) -> None:
        self.names = names  # what an episode is called, wherever it runs
        self.turns: dict[int, list[SampledTurn]] = {name: [] for name in names}

    def __call__(self, number: int, turn: SampledTurn) -> dict[int, Chunk]:
        name = self.names[number]
        turns = self.turns[name]
        turns.append(turn)
        if len(turns) > name % 5:
            return {}
        if (name + len(turns)) % 4 == 0:
            return {number: POLICY.chunk(f"no{name}")}
        images = [tiny_image(1 + name % 3, 1 + len(turns), seed=seed) for seed in range(1 + name % 2)]
        return {number: observation(POLICY, *images)}


def play(
    config: SamplingConfig = WARM,
    groups: Sequence[int] = (0, 1, 2),
    size: int = 5,
    limits: TokenLimits = LIMITS,
) -> tuple[list[Group], Driver]:
    driver = Driver([10 * group + each for group in groups for each in range(size)])
    chosen = [prompts()[group] for group in groups]
    return Sampler(POLICY, config, limits).run(chosen, generators(groups, size), driver), driver


@pytest.mark.parametrize("size", [1, 5, 8])
def test_steps_of_fixed_shape_sample_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short slots and buckets, so that slots grow and several buckets are used."""
    monkeypatch.setattr("infogap.policy.decoding.BUCKET", 7)
    expected, _ = play(size=size)
    for capacity in (0, 1, 200):
        driver = Driver([10 * group + each for group in range(3) for each in range(size)])
        sampler = Sampler(POLICY, WARM, LIMITS, capacity=capacity, static=True)
        found = sampler.run(prompts(), generators((0, 1, 2), size), driver)
        assert [tokens(group) for group in found] == [tokens(group) for group in expected]
        for group, other in zip(found, expected, strict=True):
            for chunk, same in zip(sum(group.episodes, ()), sum(other.episodes, ()), strict=True):
                assert chunk.logprobs == pytest.approx(same.logprobs, abs=1e-5)


def test_prompts_are_encoded_in_parts_that_fit_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = play()
    monkeypatch.setattr("infogap.policy.sampler.PREFILL_TOKENS", 1)
    parted, _ = play()
    assert [tokens(group) for group in parted] == [tokens(group) for group in whole]


def tokens(group: Group) -> list[list[tuple[int, ...]]]:
    return [[chunk.token_ids for chunk in episode] for episode in group.episodes]


@pytest.mark.parametrize(
    "config", [WARM, SamplingConfig(temperature=0.6, top_p=0.8), SamplingConfig(temperature=0.0)], ids=str
)
def test_sampled_logprobs_are_those_of_training(config: SamplingConfig) -> None:
    groups, _ = play(config)
    row = pack(groups, POLICY.vocabulary.image)
    with torch.no_grad():
        scores = POLICY(row, config.scoring_temperature)
    assert len(row.target) > 60
    torch.testing.assert_close(scores.logprobs, row.rollout_logprobs, rtol=0, atol=1e-4)


def test_low_precision_sampling_runs_and_stays_near_training() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        groups, _ = play()
        row = pack(groups, POLICY.vocabulary.image)
        with torch.no_grad():
            scores = POLICY(row, 1.0)
    assert float((scores.logprobs - row.rollout_logprobs).abs().mean()) < 0.1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_greedy_sampling_is_transformers_own(number: int) -> None:
    prompt, separate, ends = prompts()[number], Separate(), [POLICY.vocabulary.stop, *POLICY.vocabulary.turn_end]
    ids = torch.tensor([prompt.token_ids])
    images = {}
    if prompt.images:
        images["pixel_values"] = torch.cat([image.values for image in prompt.images])
        images["image_grid_thw"] = torch.tensor([(1, *image.grid) for image in prompt.images])
    expected = separate.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=separate.kinds(ids),
        **images,
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=ends,
        suppress_tokens=list(POLICY.vocabulary.banned),
    )[0, ids.shape[1] :]
    sampler = Sampler(POLICY, SamplingConfig(temperature=0.0), TokenLimits(24, 24))
    (group,) = sampler.run([prompt], [[torch.Generator()]], lambda *_: {})
    assert list(group.episodes[0][0].token_ids) == expected.tolist()


def test_an_episode_does_not_depend_on_who_runs_beside_it() -> None:
    together, driver = play()
    alone, other = play(groups=[2], size=3)
    for one, two in zip(together[2].episodes, alone[0].episodes, strict=False):
        assert [c.token_ids for c in one] == [c.token_ids for c in two]
        for first, second in zip(one, two, strict=True):
            assert first.logprobs == pytest.approx(second.logprobs, abs=1e-4)
    assert {name: turns for name, turns in driver.turns.items() if name in other.turns} == other.turns


def test_the_same_seed_gives_the_same_episodes_and_another_one_others() -> None:
    once, _ = play()
    again, _ = play()
    assert [tokens(group) for group in once] == [tokens(group) for group in again]
    assert len({str(episode) for episode in tokens(once[0])}) == 5


def test_dropping_finished_episodes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    keep = SlotCache.keep

    def noted(self: SlotCache, slots: Sequence[int]) -> None:
        kept.append(len(slots))
        keep(self, slots)

    monkeypatch.setattr(SlotCache, "keep", noted)
    dropped, _ = play(size=8)
    assert len(kept) >= 2  # 24 slots, then at most 12, then at most 6
    assert kept == sorted(kept, reverse=True)
    monkeypatch.setattr(Sampler, "_compact", lambda *_: None)
    full, _ = play(size=8)
    assert [tokens(group) for group in dropped] == [tokens(group) for group in full]


def test_observations_come_back_to_the_branch_that_asked() -> None:
    groups, driver = play()
    for name, episode in zip(driver.names, [e for group in groups for e in group.episodes], strict=True):
        turns = driver.turns[name]
        sampled = [chunk for chunk in episode if chunk.sampled]
        assert [chunk.token_ids for chunk in sampled] == [turn.token_ids for turn in turns]
        replay = Driver([name])
        expected = [replay(0, turn).get(0) for turn in turns]
        observed = [chunk for chunk in episode if not chunk.sampled]
        assert [c.token_ids for c in observed] == [c.token_ids for c in expected[: len(observed)] if c is not None]
        assert [chunk.sampled for chunk in episode] == [place % 2 == 0 for place in range(len(episode))]
        assert all(len(chunk.logprobs) == len(chunk.token_ids) for chunk in sampled)


def test_vision_tokens_are_never_sampled_however_likely() -> None:
    banned = list(POLICY.vocabulary.banned)
    assert {POLICY.vocabulary.image, *range(len(POLICY.tokenizer), 272)} < set(banned)

    def prefer(module: object, inputs: object, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor(banned), 1e4)

    handle = POLICY.parts.lm_head.register_forward_hook(prefer)
    try:
        for config in (WARM, SamplingConfig(temperature=0.0), SamplingConfig(top_p=0.1)):
            groups, _ = play(config, size=2)
            sampled = [c for group in groups for episode in group.episodes for c in episode if c.sampled]
            assert not {token for chunk in sampled for token in chunk.token_ids} & set(banned)
            assert all(math.isfinite(value) for chunk in sampled for value in chunk.logprobs)
    finally:
        handle.remove()


def written(
    script: Sequence[int], limits: TokenLimits, returned: Sequence[Chunk | None]
) -> tuple[Group, list[SampledTurn]]:
    """One episode that writes a script."""
    turns: list[SampledTurn] = []
    left = list(returned)

    def on_turn(number: int, turn: SampledTurn) -> dict[int, Chunk]:
        turns.append(turn)
        back = left.pop(0) if left else None
        return {} if back is None else {number: back}

    forced = Script(POLICY, script)
    try:
        run = Sampler(POLICY, SamplingConfig(temperature=0.0), limits).run
        (group,) = run([prompts()[1]], [[torch.Generator()]], on_turn)
    finally:
        forced.handle.remove()
    assert not forced.token_ids  # every token of the script was drawn
    return group, turns


@pytest.mark.parametrize(
    ("script", "turn"),
    [
        ([LETTER, STOP], SampledTurn((LETTER, STOP), "a", True, False)),
        ([LETTER, LETTER, STOP], SampledTurn((LETTER, LETTER, STOP), "aa", True, False)),  # just within the limit
        ([LETTER, TURN_END], SampledTurn((LETTER, TURN_END), "a</tool_call>", False, False)),
        ([LETTER, LETTER, TURN_END], SampledTurn((LETTER, LETTER, TURN_END), "aa</tool_call>", False, False)),
        ([LETTER, LETTER, LETTER], SampledTurn((LETTER, LETTER, LETTER), "aaa", False, True)),
        ([STOP], SampledTurn((STOP,), "", True, False)),
    ],
)
@pytest.mark.parametrize("limits", [TokenLimits(turn=3, episode=9), TokenLimits(turn=3, episode=3)])
def test_how_a_turn_ends(script: list[int], turn: SampledTurn, limits: TokenLimits) -> None:
    group, turns = written(script, limits, [None])
    assert turns == [replace(turn, spent=len(script) == limits.episode)]
    assert [chunk.token_ids for chunk in group.episodes[0]] == [tuple(script)]


def test_an_episode_ends_at_its_own_limit() -> None:
    back = observation(POLICY)
    group, turns = written([LETTER] * 5, TokenLimits(turn=3, episode=5), [back, back, back])
    assert [chunk.token_ids for chunk in group.episodes[0]] == [(LETTER,) * 3, back.token_ids, (LETTER,) * 2]
    assert [turn.truncated for turn in turns] == [True, True]


def test_an_observation_that_nothing_can_follow_is_not_encoded() -> None:
    group, turns = written([LETTER, TURN_END], TokenLimits(turn=2, episode=2), [observation(POLICY)])
    assert [chunk.token_ids for chunk in group.episodes[0]] == [(LETTER, TURN_END)]
    assert turns[0].spent  # so that the environment does not cut a crop that nobody sees
    assert not turns[0].truncated


def follow(parts_at: int | None, config: SamplingConfig) -> list[Group]:
    """Two groups of three episodes, the second and third following the first, and parting at one of its turns."""
    turns = [0, 0]

    def on_turn(number: int, turn: SampledTurn) -> dict[int, Chunk]:
        group, within = divmod(number, 3)
        if within:
            return {}
        turns[group] += 1
        if turns[group] > 3:
            return {}
        back = {number: observation(POLICY, tiny_image(1, 1 + turns[group], seed=group))}
        if turns[group] == parts_at:
            back |= {number + other: observation(POLICY, tiny_image(1 + other, 2, seed=other)) for other in (1, 2)}
        return back

    same = [[torch.Generator().manual_seed(group) for _ in range(3)] for group in range(2)]
    return Sampler(POLICY, config, LIMITS).run(prompts()[1:], same, on_turn, {1: 0, 2: 0, 4: 3, 5: 3})


@pytest.mark.parametrize("config", [WARM, SamplingConfig(temperature=0.0)], ids=["sampled", "greedy"])
@pytest.mark.parametrize("parts_at", [1, 2, 3])
def test_a_follower_is_its_leader_until_it_parts_and_itself_from_then_on(parts_at: int, config: SamplingConfig) -> None:
    groups = follow(parts_at, config)
    for group in groups:
        leader, *followers = group.episodes
        assert len(leader) == 7
        for number, follower in enumerate(followers, 1):
            shared = 2 * parts_at - 1  # turns and observations
            assert follower[:shared] == leader[:shared]
            assert follower[shared].images[0].grid == (4, 2 * (1 + number))
            assert len(follower) == shared + 2
    row = pack(groups, POLICY.vocabulary.image)
    with torch.no_grad():
        scores = POLICY(row, config.scoring_temperature)
    torch.testing.assert_close(scores.logprobs, row.rollout_logprobs, rtol=0, atol=1e-4)


def test_a_follower_that_never_parts_is_its_leader() -> None:
    for group in follow(None, WARM):
        assert group.episodes[0] == group.episodes[1] == group.episodes[2]


def test_a_follower_draws_as_its_leader_would() -> None:
    """With the same observation as its leader's it samples the same tokens."""

    def on_turn(number: int, turn: SampledTurn) -> dict[int, Chunk]:
        ends = number in ended
        ended.add(number)
        return {} if ends else dict.fromkeys((0, 1) if number == 0 else (number,), observation(POLICY))

    ended: set[int] = {1}
    same = [[torch.Generator().manual_seed(7) for _ in range(2)]]
    (group,) = Sampler(POLICY, WARM, LIMITS).run([prompts()[2]], same, on_turn, {1: 0})
    assert tokens(group)[0] == tokens(group)[1]
    assert len(group.episodes[0]) == 3


def test_observations_are_encoded_in_parts_that_fit_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = play(SamplingConfig(temperature=0.0))
    passes: list[int] = []
    encode = Sampler._encode

    def note(self: Sampler, episodes: list[int], chunks: list[Chunk]) -> Tensor:
        if max(len(chunk.token_ids) for chunk in chunks) > 1:
            passes.append(len(episodes))
        return encode(self, episodes, chunks)

    monkeypatch.setattr(Sampler, "_encode", note)
    play(SamplingConfig(temperature=0.0))
    assert max(passes) > 2
    passes.clear()
    monkeypatch.setattr("infogap.policy.cache.MOST_SCORES", 1)
    parted, _ = play(SamplingConfig(temperature=0.0))
    assert set(passes) == {1}
    assert [tokens(group) for group in parted] == [tokens(group) for group in whole]


def test_a_pass_holds_as_many_observations_as_its_scores_leave_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SlotCache.__new__(SlotCache)
    cache.lengths = [0, 5]
    cache.prompts = SimpleNamespace(keys=[torch.zeros(1, 1, 15, 1)])  # type: ignore[assignment]
    # by hand: 2 heads, 15 tokens of prompt, slots of up to 5: an observation of 10 has 2 * 10 * (20 + 10) scores
    for most, parts in ((600, [[0], [1], [2]]), (1200, [[0, 1], [2]]), (1799, [[0, 1], [2]]), (1800, [[0, 1, 2]])):
        monkeypatch.setattr("infogap.policy.cache.MOST_SCORES", most)
        assert cache.parts({0: 10, 1: 10, 2: 10}, heads=2) == parts
    monkeypatch.setattr("infogap.policy.cache.MOST_SCORES", 1200)
    assert cache.parts({7: 1, 8: 10, 9: 1}, heads=2) == [[7, 8], [9]]
