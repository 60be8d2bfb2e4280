from __future__ import annotations

import math

import pytest
import torch

from infogap.policy.attention import visible
from infogap.policy.packing import Chunk, Group, Row, pack, split_by_budget
from infogap.policy.patches import Patches

IMAGE = 9
STOP = 200


def image(wide: int = 1, high: int = 1) -> Patches:
    return Patches(torch.zeros(4 * wide * high, 1176), (2 * high, 2 * wide))


def seen(*ids: int) -> Chunk:
    return Chunk(ids, tuple(image() for token in ids if token == IMAGE))


def said(*ids: int, logprobs: tuple[float, ...] = ()) -> Chunk:
    return Chunk(ids, sampled=True, logprobs=logprobs)


PROMPT = seen(1, IMAGE, 2)
NO_CROP = (said(101, STOP),)
ONE_CROP = (said(101, 102), seen(11, IMAGE, 12), said(103, STOP))
TWO_CROPS = (said(101), seen(11, IMAGE), said(102), seen(12, IMAGE, IMAGE), said(103, 104, STOP))
BAD_CALL = (said(101, 102), seen(11, 12), said(103, STOP))
TRUNCATED = (said(101, 102, 103),)
TRUNCATED_LATER = (said(101), seen(11, IMAGE), said(102, 103))


def pack_one(*episodes: tuple[Chunk, ...], prompt: Chunk = PROMPT) -> Row:
    return pack([Group(prompt, episodes)], IMAGE)


@pytest.mark.parametrize(
    ("episode", "mask", "predictor"),
    [
        (NO_CROP, [0, 0, 0, 1, 1], [2, 3]),
        (ONE_CROP, [0, 0, 0, 1, 1, 0, 0, 0, 1, 1], [2, 3, 7, 8]),
        (TWO_CROPS, [0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1], [2, 5, 9, 10, 11]),
        (BAD_CALL, [0, 0, 0, 1, 1, 0, 0, 1, 1], [2, 3, 6, 7]),
        (TRUNCATED, [0, 0, 0, 1, 1, 1], [2, 3, 4]),
        (TRUNCATED_LATER, [0, 0, 0, 1, 0, 0, 1, 1], [2, 5, 6]),
    ],
    ids=["no_crop", "one_crop", "two_crops", "bad_call", "truncated", "truncated_later"],
)
def test_only_sampled_tokens_are_trained_and_the_stop_token_with_them(
    episode: tuple[Chunk, ...], mask: list[int], predictor: list[int]
) -> None:
    row = pack_one(episode)
    trained = set(row.target.tolist())  # all ids above 100 stand once in an episode
    assert [int(token in trained) for token in row.token_ids.tolist()] == mask
    assert row.predictor.tolist() == predictor
    # within one episode, what predicts a token stands right before it
    assert row.token_ids[row.predictor + 1].tolist() == row.target.tolist()


def test_a_row_of_two_groups() -> None:
    first = Group(seen(1, IMAGE, 2), (ONE_CROP, NO_CROP))
    second = Group(seen(3), (BAD_CALL, TRUNCATED))
    row = pack([first, second], IMAGE)
    assert row.token_ids.tolist() == [
        *[1, 9, 2, 101, 102, 11, 9, 12, 103, 200, 101, 200],
        *[3, 101, 102, 11, 12, 103, 200, 101, 102, 103],
    ]
    assert row.group.tolist() == [0] * 12 + [1] * 10
    assert row.branch.tolist() == [-1] * 3 + [0] * 7 + [1] * 2 + [-1] + [0] * 6 + [1] * 3
    assert row.target.tolist() == [101, 102, 103, 200, 101, 200, 101, 102, 103, 200, 101, 102, 103]
    # the last token of the prompt (2 and 12) predicts the first token of every episode
    assert row.predictor.tolist() == [2, 3, 7, 8, 2, 10, 12, 13, 16, 17, 12, 19, 20]
    assert row.episode.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    assert row.episodes == 4
    assert len(row.images) == 2


def test_positions_of_every_episode_go_on_from_the_prompt() -> None:
    wide = Chunk((1, IMAGE, IMAGE, IMAGE, 2), (image(wide=3),))
    row = pack([Group(wide, (ONE_CROP, NO_CROP)), Group(seen(1), (NO_CROP,))], IMAGE)
    assert row.positions.tolist() == [
        [0, 1, 1, 1, 4, 5, 6, 7, 8, 9, 10, 11, 5, 6, 0, 1, 2],
        [0, 1, 1, 1, 4, 5, 6, 7, 8, 9, 10, 11, 5, 6, 0, 1, 2],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 5, 6, 0, 1, 2],
    ]


def test_visibility_of_two_groups() -> None:
    row = pack([Group(seen(1, 2), ((said(101, STOP),), (said(102),))), Group(seen(3), ((said(103),),))], IMAGE)
    assert visible(row.group, row.branch).int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],  # prompt
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],  # first episode
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],  # second episode: the prompt and itself
        [0, 0, 0, 0, 0, 1, 0],  # the other group's prompt
        [0, 0, 0, 0, 0, 1, 1],  # its episode
    ]


def test_taught_tokens_of_an_extra_branch_are_not_sampled_ones() -> None:
    taught = Chunk((301, 302, 303, 304), taught=(0, 2, 3))
    row = pack_one(NO_CROP, (taught,))
    assert row.token_ids.tolist() == [1, 9, 2, 101, 200, 301, 302, 303, 304]
    assert row.target.tolist() == [101, 200]
    assert row.taught_target.tolist() == [301, 303, 304]
    assert row.taught_predictor.tolist() == [2, 6, 7]  # the first by the prompt's last token
    assert row.episode.tolist() == [0, 0]
    assert row.episodes == 2


def test_rollout_logprobs_follow_their_tokens() -> None:
    row = pack_one((said(101, 102, logprobs=(-1.0, -2.0)), seen(11), said(103)))
    assert row.rollout_logprobs[:2].tolist() == [-1.0, -2.0]
    assert math.isnan(row.rollout_logprobs[2])


def test_empty_chunks_and_empty_episodes_leave_no_trace() -> None:
    row = pack_one((), (seen(), said(101), seen(), said(102)))
    assert row.token_ids.tolist() == [1, 9, 2, 101, 102]
    assert row.predictor.tolist() == [2, 3]
    assert row.episode.tolist() == [1, 1]
    assert row.episodes == 2


def test_a_row_of_prompts_alone_trains_nothing() -> None:
    row = pack_one()
    assert row.target.shape == row.predictor.shape == row.episode.shape == row.taught_target.shape == (0,)
    assert row.target.dtype == row.taught_predictor.dtype == torch.long


def test_rows_are_filled_in_order_up_to_the_budget() -> None:
    groups = [Group(Chunk(tuple(range(length))), ()) for length in (4, 6, 1, 30, 5, 5)]
    rows = split_by_budget(groups, 10)
    assert [[part.group.tokens for part in row] for row in rows] == [[4, 6], [1], [30], [5, 5]]
    assert [part.number for row in rows for part in row] == [0, 1, 2, 3, 4, 5]
    assert split_by_budget([], 10) == []


def test_a_group_above_the_budget_is_cut_between_episodes() -> None:
    small, large = (
        Group(Chunk((1, 1)), ((said(1),),)),
        Group(Chunk((1, 2)), tuple((said(*range(n)),) for n in (3, 5, 1, 20, 2, 2))),
    )
    rows = split_by_budget([small, large, small], 10)
    # by hand: of the large one 2 + 3 + 5 tokens, then 2 + 1, then 2 + 20, which is too long however it is cut
    assert [[(part.number, part.first, part.group.tokens) for part in row] for row in rows] == [
        [(0, 0, 3)],
        [(1, 0, 10)],
        [(1, 2, 3)],
        [(1, 3, 22)],
        [(1, 4, 6), (2, 0, 3)],
    ]
    pieces = [part.group for row in rows for part in row if part.number == 1]
    assert tuple(episode for piece in pieces for episode in piece.episodes) == large.episodes
    assert {piece.prompt for piece in pieces} == {large.prompt}
    assert Group(PROMPT, (ONE_CROP, NO_CROP)).tokens == 12
