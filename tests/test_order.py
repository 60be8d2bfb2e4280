"""The order of training: every item once an epoch, over any ranks, from any position, in proportion to weights."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infogap.data.order import EndlessOrder, draws

GROUPS = [5, 0, 4, 7, 1]


def order(groups: list[int] = GROUPS, **changes: object) -> EndlessOrder:
    arguments = {"shuffle_buffer": 6, "seed": "0", **changes}
    return EndlessOrder(groups, **arguments)  # type: ignore[arg-type]


def first(count: int, position: int = 0, **changes: object) -> list[int]:
    return list(islice(order(**changes).since(position), count))  # type: ignore[arg-type]


def test_every_epoch_holds_every_item_once_in_another_order() -> None:
    items = first(17 * 4)
    epochs = [items[start : start + 17] for start in range(0, 68, 17)]
    assert all(sorted(epoch) == list(range(17)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@given(
    groups=st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any),
    world_size=st.integers(1, 5),
    epochs=st.integers(1, 4),
)
def test_the_ranks_share_every_epoch_and_none_is_more_than_one_ahead(
    groups: list[int], world_size: int, epochs: int
) -> None:
    total = sum(groups)
    orders = [order(groups, rank=rank, world_size=world_size) for rank in range(world_size)]
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        shares = [one._epoch(epoch) for one in orders]
        assert sorted(item for share in shares for item in share) == list(range(total))
        seen.update({rank: len(share) for rank, share in enumerate(shares)})
        counts = [seen[rank] for rank in range(world_size)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 3), (2, 3), (4, 40), (39, 40)])
def test_an_order_goes_on_at_any_position(rank: int, world_size: int) -> None:
    whole = first(60, rank=rank, world_size=world_size)
    for position in range(50):
        assert first(60 - position, position, rank=rank, world_size=world_size) == whole[position:]


def test_the_order_follows_from_the_seed() -> None:
    assert first(30) == first(30) != first(30, seed="1")


def test_a_buffer_of_one_keeps_the_order_within_shards() -> None:
    epoch = first(17, shuffle_buffer=1)
    assert epoch != list(range(17))
    starts = {0, 5, 9, 16}
    assert all(after == before + 1 or after in starts for before, after in pairwise(epoch))


def test_a_buffer_that_holds_everything_shuffles_everything() -> None:
    starts = [first(1, groups=[150], shuffle_buffer=150, seed=str(seed))[0] for seed in range(9)]
    assert max(starts) >= 100


def test_a_rank_needs_few_shards_that_another_needs() -> None:
    orders = [order([10] * 8, rank=rank, world_size=4) for rank in range(4)]
    shards = [{item // 10 for item in one._epoch(0)} for one in orders]
    assert [len(held) for held in shards] == [2, 2, 2, 2]
    assert len(set().union(*shards)) == 8


def test_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="no items to order"):
        order([0, 0])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [3.0, 1.0, 0.25], [1000, 24, 7]])
def test_sources_are_drawn_in_proportion_to_their_weights_at_every_moment(weights: list[float]) -> None:
    taken: Counter[int] = Counter()
    for count, source in enumerate(islice(draws(weights), 500), 1):
        taken[source] += 1
        for number, weight in enumerate(weights):
            assert abs(taken[number] - count * weight / sum(weights)) < len(weights)
