from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from infogap.policy.draw import SamplingConfig, draw

PROBABILITIES = torch.tensor([0.05, 0.5, 0.0, 0.3, 0.15])
LAST = 1 - 2**-24  # the largest number that torch.rand can return
NO_TOKENS = torch.tensor([], dtype=torch.long)


def drawn(uniform: Sequence[float], banned: Tensor = NO_TOKENS, **config: float) -> list[int]:
    logits = PROBABILITIES.log().repeat(len(uniform), 1)
    found, logprobs = draw(logits, torch.tensor(uniform), banned, SamplingConfig(**config))
    assert torch.isfinite(logprobs).all()
    return found.tolist()


@pytest.mark.parametrize(
    ("top_p", "uniform", "expected"),
    [
        # all of them: in the order of the vocabulary, without sorting
        (1.0, [0.0, 0.04, 0.06, 0.54, 0.56, 0.84, 0.86, LAST], [0, 0, 1, 1, 3, 3, 4, 4]),
        (0.96, [0.0, LAST], [1, 0]),
        (0.94, [0.0, 0.52, 0.53, 0.84, 0.85, LAST], [1, 1, 3, 3, 4, 4]),  # of 0.95
        (0.81, [0.0, LAST], [1, 4]),
        (0.79, [0.62, 0.63, LAST], [1, 3, 3]),  # of 0.8
        (0.51, [0.0, LAST], [1, 3]),
        (0.4999, [0.0, 0.5, LAST], [1, 1, 1]),
        (1e-9, [0.0, 0.5, LAST], [1, 1, 1]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_fills_it(top_p: float, uniform: list[float], expected: list[int]) -> None:
    assert drawn(uniform, top_p=top_p) == expected


def test_greedy_drawing_ignores_the_uniform_number() -> None:
    assert drawn([0.0, 0.99, LAST], temperature=0.0) == [1, 1, 1]
    assert drawn([0.0, LAST], temperature=0.0, banned=torch.tensor([1])) == [3, 3]


def test_temperature_reshapes_and_bans_renormalise() -> None:
    # squared, without token 1: 0.0025, 0.09 and 0.0225 of 0.115, that is 0.0217, 0.7826 and 0.1957
    uniform = [0.0, 0.021, 0.022, 0.80, 0.81, LAST]
    assert drawn(uniform, temperature=0.5, banned=torch.tensor([1])) == [0, 0, 3, 3, 4, 4]
    logits, banned = PROBABILITIES.log()[None], torch.tensor([1])
    _, logprobs = draw(logits, torch.tensor([0.5]), banned, SamplingConfig(temperature=0.5))
    assert float(logprobs) == pytest.approx(math.log(0.09 / 0.115), abs=1e-6)


def test_logprobs_are_those_before_top_p() -> None:
    _, logprobs = draw(PROBABILITIES.log()[None], torch.tensor([0.0]), NO_TOKENS, SamplingConfig(top_p=0.1))
    assert float(logprobs) == pytest.approx(math.log(0.5), abs=1e-6)


def test_the_last_point_never_falls_on_an_impossible_token() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 5000, generator=generator) * 3
    impossible = torch.randperm(5000, generator=generator)[:4000]
    for top_p in (1.0, 0.999):
        found, logprobs = draw(logits, torch.full((64,), LAST), impossible, SamplingConfig(top_p=top_p))
        assert not set(found.tolist()) & set(impossible.tolist())
        assert torch.isfinite(logprobs).all()


def test_rounding_never_draws_a_token_that_top_p_cut_off() -> None:
    for seed in range(64):
        logits = torch.randn(1, 3000, generator=torch.Generator().manual_seed(seed))
        ordered, order = logits[0].double().softmax(-1).sort(descending=True)
        top_p = float(ordered[:1000].sum() - ordered[999] / 2)  # keeps 1,000 tokens
        found, _ = draw(logits, torch.tensor([LAST]), NO_TOKENS, SamplingConfig(top_p=top_p))
        assert int((order == found).int().argmax()) in (998, 999)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": -0.1}, "sampling.temperature is -0.1: give 0"),
        ({"top_p": 0.0}, "sampling.top_p is 0.0: give a number above 0"),
        ({"top_p": 1.1}, "sampling.top_p is 1.1: give a number above 0"),
    ],
)
def test_impossible_settings_are_refused(config: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**config)
