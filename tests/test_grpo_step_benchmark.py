"""The benchmarks of a step run on a small scale, and what they claim about fairness, counts and memory holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parent / "benchmarks"
SMALL = ["--prompts", "2", "--group-size", "2", "--view-tokens", "16", "--new-tokens", "3", "--crop-tokens", "4"]
SMALL += ["--steps", "1", "--warmup", "1"]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks can be imported, and do not measure the machine."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import rates

    monkeypatch.setattr(rates, "matmul_rate", lambda *_: 1e12)
    monkeypatch.setattr(rates, "copy_rate", lambda *_: 1e12)


@pytest.mark.parametrize("turns", [1, 2])
def test_our_side_reports_rates_and_forces_every_length(tmp_path: Path, turns: int) -> None:
    import grpo_step

    report = grpo_step.main([*SMALL, "--turns", str(turns), "--json", str(tmp_path / "report.json")])
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    tokens, prompt = report["tokens"], report["tokens"]["prompt_tokens"] // 2
    assert tokens["episodes"] == 4
    assert tokens["view_tokens"] == 2 * 16
    assert tokens["crop_tokens"] == 4 * 4 * (turns - 1)
    assert tokens["sampled_tokens"] == 4 * 3 * turns
    assert tokens["packed_tokens"] >= 2 * prompt + tokens["sampled_tokens"] + tokens["crop_tokens"]
    assert set(report["ours_phases"]) == {"rollout", "reward", "pack", "update", "other"}
    for name in ("ours_seconds", "rollout_sampled_tokens_per_second", "rollout_tokens_per_second"):
        assert report[name] > 0
    for name in ("update_tokens_per_second", "update_flop_utilisation", "decode_bandwidth_utilisation"):
        assert report[name] > 0
    assert report["peak_memory_bytes"] >= 0
    assert report["settings"]["turns"] == turns
    assert str(tmp_path) not in json.dumps(report)
    assert {"versions", "machine", "date"} <= set(report)


def test_adapters_can_be_measured() -> None:
    import grpo_step

    report = grpo_step.main([*SMALL, "--lora"])
    assert report["update_flops"]["vision"] == 0


def test_the_arithmetic_of_an_update_is_what_torch_counts() -> None:
    from grpo_step_ours import OurRun
    from step_settings import Settings
    from torch.utils.flop_counter import FlopCounterMode

    from infogap.policy.packing import pack

    settings = Settings(prompts=2, group_size=2, view_tokens=16, new_tokens=64, steps=1, warmup=0)
    run = OurRun(settings, settings.batches())
    run.run()
    policy, groups = run.module.policy, run.steps[-1].groups
    policy.train()
    with FlopCounterMode(display=False) as counter:
        policy(pack(groups, policy.vocabulary.image), 1.0).logprobs.sum().backward()
    # attention is computed over padded squares and masked, and the tower's input needs no gradient
    assert run.costs().total == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.parametrize(("shape", "billions"), [("3b", 3.75), ("7b", 8.29)])
def test_the_published_shapes_have_their_number_of_weights(shape: str, billions: float) -> None:
    from model_shapes import build_config, build_model, read_tokenizer

    model = build_model(build_config(shape, read_tokenizer()), "bfloat16", "meta", "sdpa", 0)
    weights = list(model.parameters())
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert sum(weight.numel() for weight in weights) / 1e9 == pytest.approx(billions, abs=0.01)


def test_live_bytes_are_counted_and_forgotten() -> None:
    from update_memory import LiveBytes

    with LiveBytes() as counter:
        kept = torch.zeros(1000)
        gone = kept + 1
        del gone
        view = kept[:10]
        assert counter.now == 4000
    assert counter.peak == 8000
    assert view.shape == (10,)


def test_memory_of_an_update_does_not_grow_with_tokens_times_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    import update_memory

    monkeypatch.setattr("infogap.policy.logprobs.SLICE_LOGITS", 1 << 20)  # that of a real vocabulary takes 1 GiB
    args = ["--tokens", "4096", "8192", "--vocabulary", "512", "4096", "--layers", "1"]
    few, many, few_large, many_large = (each["peak_bytes"] for each in update_memory.main(args)["peaks"])
    grown, of_logits = (many_large - few_large) - (many - few), 4 * 4096 * (4096 - 512)
    assert grown < 0.1 * of_logits
    assert few < few_large


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("turns", [1, 2])
def test_trl_does_the_same_work(turns: int) -> None:
    pytest.importorskip("trl")
    import grpo_step

    report = grpo_step.main([*SMALL, "--turns", str(turns), "--against", "trl", "--trl-batch-size", "2"])
    assert report["ratio"] == pytest.approx(report["trl_seconds"] / report["ours_seconds"])
    assert report["tokens"]["sampled_tokens"] == report["trl_tokens"]["sampled_tokens"] == 4 * 3 * turns
    assert set(report["trl_phases"]) == {"generation", "prepare", "forward", "backward", "optimizer", "other"}


@pytest.mark.filterwarnings("ignore")
def test_trl_has_the_same_policy() -> None:
    """The log-probabilities of TRL's first update are ours for the same tokens, so weights and positions are, too."""
    pytest.importorskip("trl")
    from grpo_step_ours import build_policy, weights_of
    from grpo_step_trl import TrlRun, TrlSettings
    from step_settings import Settings

    settings = Settings(
        prompts=1, group_size=2, view_tokens=16, new_tokens=8, turns=2, crop_tokens=4, steps=1, warmup=0
    )
    policy = build_policy(settings)
    run = TrlRun(settings, TrlSettings(2), settings.batches(), weights_of(policy))
    seen: list[Any] = []
    score = run.trainer._get_per_token_logps_and_entropies

    def kept(*arguments: Any, **named: Any) -> Any:
        found = score(*arguments, **named)
        seen.append((arguments[1], named["pixel_values"], named["image_grid_thw"], found[0].detach()))
        return found

    run.trainer._get_per_token_logps_and_entropies = kept
    run.run()
    ids, pixels, grids, expected = seen[0]
    policy.banned = policy.banned[:0]  # TRL scores without the ban that it samples with
    assert torch.allclose(ours_of(policy, ids[0], pixels, grids, expected.shape[1]), expected[0], atol=1e-4)


def ours_of(policy: Any, ids: Any, pixels: Any, grids: Any, completion: int) -> Any:
    """Our log-probabilities of the completion of a batch's first episode, a view and a crop in it."""
    from infogap.policy.packing import Chunk, Group, pack
    from infogap.policy.patches import Patches

    view, crop = (tuple(grid[1:].tolist()) for grid in grids[:2])
    border, end = view[0] * view[1], view[0] * view[1] + crop[0] * crop[1]
    prompt = Chunk(tuple(ids[:-completion].tolist()), (Patches(pixels[:border], view),))
    episode = Chunk(tuple(ids[-completion:].tolist()), (Patches(pixels[border:end], crop),), sampled=True)
    with torch.no_grad():
        return policy(pack([Group(prompt, ((episode,),))], policy.vocabulary.image), 1.0).logprobs
