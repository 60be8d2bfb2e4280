"""Rollout steps through a real Trainer: what is logged, what changes, and that an interruption changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from tiny_policy import SCENES, tiny_protocol, tiny_rollout, write_tiny_policy
from torch import Tensor

from infogap.callbacks.grounding_stage import GroundingStage
from infogap.data.datamodule import ShardDataModule
from infogap.data.needle import make_samples
from infogap.data.needle_shards import write_needle_shards
from infogap.episode.rewards import RewardConfig
from infogap.grpo.batch import ScoredBatch
from infogap.grpo.config import AlgorithmConfig, OptimConfig
from infogap.grpo.losses import LossConfig
from infogap.grpo.module import GRPOModule
from infogap.grpo.ranks import Ranks
from infogap.grpo.strategy import ShardedStrategy
from infogap.policy.draw import SamplingConfig
from infogap.policy.loading import LoraConfig, PolicyConfig
from infogap.policy.sharding import ShardingConfig
from infogap.rollout import ViewConfig

Metrics = dict[str, float]


class Recorder(Callback):
    """Keeps the metrics and the episodes of every step."""

    def __init__(self) -> None:
        self.steps: list[Metrics] = []
        self.batches: list[ScoredBatch] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.steps.append({name: float(value) for name, value in trainer.logged_metrics.items()})
        self.batches.append(pl_module.last_batch)

    @property
    def untimed(self) -> list[Metrics]:
        return [{n: v for n, v in step.items() if not n.startswith(("time/", "eval/"))} for step in self.steps]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, and shards for training and validation."""
    folder = tmp_path_factory.mktemp("module")
    write_tiny_policy(folder / "policy")
    write_needle_shards(SCENES, folder / "train", count=24, seed=0)
    write_needle_shards(SCENES, folder / "val", count=4, seed=1)
    return folder


def module(folder: Path, *, policy: dict[str, Any] | None = None, **changes: Any) -> GRPOModule:
    defaults: dict[str, Any] = {
        "policy": PolicyConfig(str(folder / "policy"), **(policy or {})),
        "protocol": tiny_protocol(),
        "rollout": tiny_rollout(),
        "optim": OptimConfig(lr=1e-3),
    }
    return GRPOModule(**(defaults | changes))


def fit(
    folder: Path, model: GRPOModule, steps: int, *callbacks: Callback, validate: bool = False, **trainer: Any
) -> Recorder:
    """Train for some rollout steps, counted from the start of the run."""
    recorder = Recorder()
    data = ShardDataModule(
        str(folder / "train"), str(folder / "val") if validate else None, prompts_per_step=3, shuffle_buffer=8
    )
    checkpoint = trainer.pop("ckpt_path", None)
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": steps,
        "limit_val_batches": 1.0 if validate else 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    Trainer(**(settings | trainer), callbacks=[*callbacks, recorder]).fit(model, data, ckpt_path=checkpoint)
    return recorder


def weights(model: GRPOModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether weights are equal bit for bit."""
    assert set(first) == set(second)
    return all(torch.equal(value, second[name]) for name, value in first.items())


def keys_of(recorder: Recorder) -> list[list[str]]:
    return [[e.sample_key for r in batch.rollouts for e in r.episodes] for batch in recorder.batches]


def texts_of(recorder: Recorder) -> list[list[str]]:
    return [[t.text for r in b.rollouts for e in r.episodes for t in e.turns] for b in recorder.batches]


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[Recorder, dict[str, Tensor], GRPOModule]:
    """Four steps without anything special."""
    model = module(folder)
    recorder = fit(folder, model, 4)
    return recorder, weights(model), model


def test_every_step_logs_the_same_keys(plain: tuple[Recorder, Any, Any]) -> None:
    steps = plain[0].steps
    assert len(steps) == 4
    assert all(set(step) == set(steps[0]) for step in steps)
    families = {name.split("/")[0] for name in steps[0]}
    assert families == {"reward", "group", "episode", "crop", "policy", "optim", "time", "weight", "clock"}
    shown = {"reward/total", "reward/accuracy", "episode/tool_rate", "time/episodes_per_second"}
    assert shown <= set(plain[2].trainer.progress_bar_metrics)
    assert any(step["group/zero_variance"] < 1 for step in steps)
    assert all(step["policy/sampler_gap"] < 1e-5 for step in steps)


def test_keys_are_the_same_when_nothing_can_be_learned(folder: Path, plain: tuple[Recorder, Any, Any]) -> None:
    model = module(folder, rewards=RewardConfig(accuracy=0.0, format=0.0, tool=0.0))
    recorder = fit(folder, model, 2)
    assert all(set(step) == set(plain[0].steps[0]) for step in recorder.steps)
    assert [step["group/zero_variance"] for step in recorder.steps] == [1.0, 1.0]
    assert same(weights(model), weights_before(folder))


def weights_before(folder: Path, **changes: Any) -> dict[str, Tensor]:
    model = module(folder, **changes)
    model.configure_model()
    return weights(model)


def test_two_clocks_run(folder: Path, plain: tuple[Recorder, Any, GRPOModule]) -> None:
    assert [step["clock/rollout_step"] for step in plain[0].steps] == [0, 1, 2, 3]
    assert [step["clock/update_step"] for step in plain[0].steps] == [1, 2, 3, 4]
    model = module(folder, algorithm=AlgorithmConfig(updates_per_rollout=3))
    recorder = fit(folder, model, 2)
    assert [step["clock/update_step"] for step in recorder.steps] == [3, 6]
    assert (model.rollout_step, model.update_step) == (2, 6)


def test_several_updates_compare_with_the_policy_that_played(folder: Path, plain: tuple[Recorder, Any, Any]) -> None:
    assert all(step["policy/ratio"] == 1.0 and step["policy/kl_old"] == 0.0 for step in plain[0].steps[:1])
    several = AlgorithmConfig(updates_per_rollout=3)
    steps = fit(folder, module(folder, algorithm=several, optim=OptimConfig(lr=0.03)), 4).steps
    learned = [step for step in steps if step["optim/grad_norm"] > 0]  # not where all episodes had one reward
    assert learned
    assert all(step["policy/kl_old"] > 1e-4 for step in learned)
    assert any(step["policy/clip_low"] + step["policy/clip_high"] > 0 for step in steps)


def test_a_reference_is_made_for_the_kl_term_alone_and_stays_as_it_was(
    folder: Path, plain: tuple[Recorder, Any, GRPOModule]
) -> None:
    assert plain[2]._reference is None
    model = module(folder, algorithm=AlgorithmConfig(loss=LossConfig(kl_coef=0.1)), optim=OptimConfig(lr=0.01))
    steps = fit(folder, model, 3).steps
    assert steps[0]["policy/kl_ref"] == pytest.approx(0.0, abs=1e-8)
    assert steps[2]["policy/kl_ref"] > 1e-5
    assert not any("reference" in name for name in model.state_dict())


def test_the_trainer_scores_at_the_temperature_of_the_sampler(folder: Path) -> None:
    rollout = tiny_rollout(sampling=SamplingConfig(temperature=0.7))
    for algorithm in (AlgorithmConfig(), AlgorithmConfig(updates_per_rollout=2)):
        steps = fit(folder, module(folder, rollout=rollout, algorithm=algorithm), 2).steps
        assert all(step["policy/sampler_gap"] < 1e-5 for step in steps)
        assert any(step["policy/ratio"] > 0 for step in steps)  # something was scored


def test_episodes_depend_on_the_rollout_step_and_the_rank(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, found = list(make_samples(SCENES, 0, 3)), set()
    for step, rank in ((0, 0), (1, 0), (0, 1)):
        model = module(folder)
        model.configure_model()
        model.rollout_step = step
        monkeypatch.setattr(GRPOModule, "_ranks", Ranks(SingleDeviceStrategy(), rank, 2))
        found.add(str([[e.turns for e in rollout.episodes] for rollout in model._play(samples)]))
    assert len(found) == 3


def test_several_processes_need_a_strategy_that_lets_ranks_be_free(folder: Path) -> None:
    model = module(folder)
    model.trainer = SimpleNamespace(world_size=2, strategy=DDPStrategy())  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"strategy is DDPStrategy with 2 processes: add --config configs/strategy/ddp"
    ):
        model.setup("fit")


def test_a_sum_over_ranks_leaves_the_ranks_own_numbers_alone() -> None:
    def reduce(tensor: Tensor, reduce_op: str) -> Tensor:
        return tensor.mul_(2)  # in place, as gloo does

    ranks = Ranks(SimpleNamespace(reduce=reduce, root_device="cpu"), 1, 2)  # type: ignore[arg-type]
    own = torch.tensor([3.0])
    assert ranks.sum(own).tolist() == [6.0]
    assert own.tolist() == [3.0]
    assert ranks.places(3) == [1, 3, 5]


def test_training_moves_the_weights_and_the_seed_decides_the_episodes(
    folder: Path, plain: tuple[Recorder, dict[str, Tensor], Any]
) -> None:
    assert not same(plain[1], weights_before(folder))
    again, other = module(folder), module(folder, seed=1)
    repeated, different = fit(folder, again, 2), fit(folder, other, 2)
    assert repeated.untimed == plain[0].untimed[:2]
    assert texts_of(repeated) == texts_of(plain[0])[:2]
    assert keys_of(different) == keys_of(repeated)  # the order of the samples has a seed of its own
    assert texts_of(different) != texts_of(repeated)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_a_resumed_run_equals_an_uninterrupted_one(
    folder: Path, plain: tuple[Recorder, dict[str, Tensor], Any], tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    interrupted = fit(folder, module(folder), 4, saver)
    assert interrupted.untimed == plain[0].untimed  # saving changes nothing either
    model = module(folder)
    recorder = fit(folder, model, 4, saver, ckpt_path=tmp_path / "step=2.ckpt")
    assert (model.rollout_step, model.update_step) == (4, 4)
    assert keys_of(recorder) == keys_of(plain[0])[2:]
    assert texts_of(recorder) == texts_of(plain[0])[2:]
    assert recorder.untimed == plain[0].untimed[2:]
    assert same(weights(model), plain[1])


def test_validation_leaves_training_as_it_is(folder: Path, plain: tuple[Recorder, dict[str, Tensor], Any]) -> None:
    model = module(folder)
    recorder = fit(folder, model, 4, validate=True, val_check_interval=1)
    assert recorder.untimed == plain[0].untimed
    assert same(weights(model), plain[1])
    names = {"accuracy", "total", "tool_rate", "visual_tokens", "area_ratio", "iou", "coverage", "coverage_above_tau"}
    assert {name for name in recorder.steps[-1] if name.startswith("eval/")} == {f"eval/{name}" for name in names}
    assert 4 <= recorder.steps[-1]["eval/visual_tokens"] <= 8


def test_validation_means_are_over_all_samples_that_have_a_view(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are cut into batches; means over crops are over crops, not over batches."""
    model = module(folder, rollout=tiny_rollout(view=ViewConfig(mode="selected")))
    model.configure_model()
    logged: list[Metrics] = []
    monkeypatch.setattr(model, "log_dict", logged.append)
    monkeypatch.setattr(GRPOModule, "_ranks", Ranks(SingleDeviceStrategy(), 0, 1))
    samples = [replace(sample, view_tokens=4) for sample in make_samples(SCENES, 1, 6)]
    unseen = [replace(sample, view_tokens=None) for sample in samples]
    for batches in ([samples], [[sample] for sample in samples], [[*unseen, *samples], unseen], [unseen]):
        model.on_validation_epoch_start()
        for number, batch in enumerate(batches):
            model.validation_step(batch, number)
        model.on_validation_epoch_end()
    whole, cut, mixed, nothing = logged
    assert cut == pytest.approx(whole)
    assert mixed == pytest.approx(whole)
    assert 0 < whole["eval/tool_rate"] < 1
    assert whole["eval/area_ratio"] > 0.2  # a mean over batches would count those without a crop as 0
    assert nothing == dict.fromkeys(whole, 0.0)


def test_stage_2_takes_weights_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="stage1", save_on_train_epoch_end=True)
    first = module(folder)
    fit(folder, first, 2, saver)
    second = module(folder, init_from=str(tmp_path / "stage1.ckpt"))
    second.configure_model()
    assert same(weights(second), weights(first))
    assert (second.rollout_step, second.update_step) == (0, 0)
    recorder = fit(folder, second, 2, GroundingStage(weight=2.0, start=1, kind="both", loss_weight=0.5))
    assert [step["weight/grounding"] for step in recorder.steps] == [0.0, 2.0]
    assert [step["weight/grounding_loss"] for step in recorder.steps] == [0.0, 0.5]
    assert [step["clock/rollout_step"] for step in recorder.steps] == [0, 1]
    assert recorder.steps[0]["policy/grounding_loss"] == 0.0
    assert recorder.steps[1]["policy/grounding_loss"] > 0.0


def test_stage_2_can_start_from_a_model_folder(folder: Path, tmp_path: Path) -> None:
    write_tiny_policy(tmp_path, seed=7)
    started = module(folder, init_from=str(tmp_path))
    started.configure_model()
    other = module(folder, policy=None)
    other.policy_config = PolicyConfig(str(tmp_path))
    other.configure_model()
    assert same(weights(started), weights(other))
    assert not same(weights(started), weights_before(folder))


def test_a_frozen_vision_tower_does_not_change(folder: Path, plain: tuple[Recorder, dict[str, Tensor], Any]) -> None:
    before = weights_before(folder)
    model = module(folder, policy={"vision_tower": "frozen"})
    fit(folder, model, 2)
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(".visual." in name for name in changed)
    assert any(".visual." in name for name, value in plain[1].items() if not torch.equal(value, before[name]))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft reads it
def test_lora_changes_adapters_only(folder: Path) -> None:
    lora = {"lora": LoraConfig(rank=4, alpha=8), "vision_tower": "frozen"}
    torch.manual_seed(0)
    model = module(folder, policy=lora)
    model.configure_model()
    before = weights(model)
    fit(folder, model, 2)
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name and ".visual." not in name for name in changed)
    checkpoint: dict[str, Any] = {}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["infogap"]["lora"] == {"rank": 4, "alpha": 8}


def test_the_learning_rate_warms_up_and_the_tower_has_its_own(folder: Path) -> None:
    model = module(folder, optim=OptimConfig(lr=4e-3, vision_lr=1e-3, warmup_updates=4))
    steps = fit(folder, model, 3).steps
    assert [step["optim/lr"] for step in steps] == pytest.approx([1e-3, 2e-3, 3e-3])
    rates = [group["lr"] for group in model.optimizers().param_groups]
    assert rates == pytest.approx([3e-3, 0.75e-3])


def test_adapters_of_the_tower_have_its_learning_rate(folder: Path) -> None:
    policy = {"lora": LoraConfig(rank=2, alpha=4), "vision_tower": "lora"}
    model = module(folder, policy=policy, optim=OptimConfig(lr=4e-3, vision_lr=1e-3))
    model.configure_model()
    rates = {id(p): group["lr"] for group in model.configure_optimizers().param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.policy.named_parameters() if p.requires_grad}  # type: ignore[union-attr]
    assert {rate for name, rate in named.items() if ".visual." in name} == {1e-3}
    assert {rate for name, rate in named.items() if ".visual." not in name} == {4e-3}


@pytest.mark.parametrize(("updates", "limit"), [(1, {}), (2, {"max_steps": 5})])
def test_the_learning_rate_falls_over_the_whole_run(folder: Path, updates: int, limit: dict[str, int]) -> None:
    algorithm, optim = AlgorithmConfig(updates_per_rollout=updates), OptimConfig(lr=4e-3, schedule="linear")
    steps = fit(folder, module(folder, algorithm=algorithm, optim=optim), 4, **limit).steps
    expected = {1: [4e-3, 3e-3, 2e-3, 1e-3], 2: [3.6e-3, 2e-3, 0.4e-3]}  # means of 5 and 4, 3 and 2, 1 and 0 fifths
    assert [step["optim/lr"] for step in steps] == pytest.approx(expected[updates])


def test_the_schedule_by_hand() -> None:
    linear = OptimConfig(warmup_updates=2, schedule="linear")
    assert [linear.factor(update, 6) for update in range(7)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert linear.factor(10**6, float("inf")) == 1.0
    constant = OptimConfig(warmup_updates=2)
    assert [constant.factor(update, 6) for update in range(4)] == [0.5, 1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"optim.schedule is 'cosine': use one of constant, linear\."):
        OptimConfig(schedule="cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"optim.warmup_updates is -1: give 0 or more\."):
        OptimConfig(warmup_updates=-1)


def test_the_tower_keeps_its_own_rate(folder: Path) -> None:
    model = module(folder, optim=OptimConfig(lr=4e-3, vision_lr=1e-3, warmup_updates=4))
    fit(folder, model, 3)
    rates = [group["lr"] for group in model.optimizers().param_groups]
    assert rates == pytest.approx([3e-3, 0.75e-3])


def test_the_module_says_what_it_needs(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"rollout.group_size is 1: .* give at least 2\."):
        module(folder, rollout=tiny_rollout(group_size=1))
    with pytest.raises(ValueError, match=r"model.init_from '/nowhere' does not exist: give a checkpoint"):
        module(folder, init_from="/nowhere")
    with pytest.raises(RuntimeError, match="configure_model"):
        module(folder).configure_optimizers()


def test_images_of_a_step_are_let_go(folder: Path) -> None:
    """Encoded images after the update, and those of the step before once the next one begins."""
    held: list[tuple[int, bool]] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            held.append((len(pl_module.policy.encoded), pl_module.last_batch is not None))

    model = module(folder, policy={"vision_tower": "frozen"})
    play = model._play

    def noted(samples: Any) -> Any:
        held.append((len(model.policy.encoded), model.last_batch is not None))  # type: ignore[union-attr]
        return play(samples)

    model._play = noted  # type: ignore[method-assign]
    fit(folder, model, 2, Watch())
    assert held == [(0, False), (0, True), (0, False), (0, True)]


def test_autocast_over_shards_with_a_type_of_their_own_is_refused(folder: Path) -> None:
    model = module(folder, sharding=ShardingConfig(compute_dtype="bfloat16"))
    model.trainer = SimpleNamespace(world_size=1, strategy=ShardedStrategy(), precision="bf16-mixed")  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"precision is bf16-mixed and model\.sharding\.compute_dtype bfloat16: set"):
        model.setup("fit")


@pytest.mark.parametrize(
    ("policy", "told"), [({}, True), ({"lora": LoraConfig(4, 8), "vision_tower": "frozen"}, False)]
)
def test_training_bfloat16_weights_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, policy: dict[str, Any], told: bool
) -> None:
    module(folder, policy={"dtype": "bfloat16", **policy})
    assert ("Weights of type bfloat16 are trained themselves" in caplog.text) == told
