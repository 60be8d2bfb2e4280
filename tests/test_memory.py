from __future__ import annotations

import pytest
import torch
from tiny import tiny_policy

from infogap.policy.cache import PrefillAttention
from infogap.policy.memory import GIB, MemoryShortageError, allowed_bytes, free_bytes, plan_waves, token_bytes
from infogap.policy.packing import Group, pack


def test_waves_hold_as_many_groups_as_fit() -> None:
    # by hand, one byte a token: a group of 2 episodes of 10 and a prompt of 4 takes 24, and two of them 48
    assert plan_waves([4, 4, 4, 4, 4], 2, 10, 1, 48) == [range(0, 2), range(2, 4), range(4, 5)]
    assert plan_waves([4, 4, 4, 4, 4], 2, 10, 1, 47) == [range(n, n + 1) for n in range(5)]
    assert plan_waves([4, 4, 4, 4, 4], 2, 10, 1, None) == [range(0, 5)]
    assert plan_waves([], 2, 10, 1, 48) == []


def test_prompts_of_a_wave_are_padded_to_its_longest() -> None:
    assert plan_waves([4, 6, 4], 2, 10, 1, 48) == [range(0, 1), range(1, 2), range(2, 3)]
    assert plan_waves([4, 6, 4], 2, 10, 1, 52) == [range(0, 2), range(2, 3)]


def test_one_group_that_does_not_fit_is_refused_with_the_numbers() -> None:
    message = (
        r"of one group take 0.60 GiB \(a prompt of 4 tokens and 2 episodes of up to 5,600, 57,344 bytes a token\), "
        r"and 0.50 GiB may be used: lower rollout.group_size"
    )
    with pytest.raises(MemoryShortageError, match=message):
        plan_waves([4, 1030], 2, 5600, 57344, GIB // 2)


def test_a_token_costs_its_keys_and_values_in_all_layers() -> None:
    policy = tiny_policy()  # 2 layers, 2 key heads of 16, float32
    assert token_bytes(policy) == 2 * 2 * 2 * 16 * 4
    with torch.autocast("cpu", torch.bfloat16):
        assert token_bytes(policy) == 2 * 2 * 16 * (4 + 2)


def test_free_memory_is_known_here_and_a_set_limit_goes_before() -> None:
    cpu = torch.device("cpu")
    free = free_bytes(cpu)
    assert free is not None
    assert 1 << 20 < free < 1 << 50
    assert allowed_bytes(cpu, 1.5) == 3 * GIB // 2
    assert allowed_bytes(cpu, None) == pytest.approx(0.7 * free, rel=0.2)


def test_keys_of_half_precision_weights_are_half_precision_under_autocast_too() -> None:
    policy = tiny_policy(dtype="bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        row = pack([Group(policy.chunk("abc"), ())], policy.vocabulary.image)
        kept = PrefillAttention(row.group)
        with torch.no_grad():
            policy.row_hidden(row, kept)
        held = sum(t.numel() * t.itemsize for t in (*kept.keys, *kept.values))
        assert held == len(row.token_ids) * token_bytes(policy)
