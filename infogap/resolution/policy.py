"""Resolution selection by the policy that will be trained: how it answers, and what names it in the manifest."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from infogap.data.manifest import MANIFEST_NAME, ManifestHeader, load_header, load_manifest
from infogap.data.sample import Sample
from infogap.data.shards import find_shards
from infogap.data.skips import SkipLog
from infogap.episode.protocol import Protocol
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.model import Policy
from infogap.policy.weights import fingerprint, load_weights
from infogap.resolution.report import SelectionReport
from infogap.resolution.selection import ResolutionConfig, pending, select_resolutions
from infogap.rollout import Rollout, RolloutConfig

logger = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(days=7)
"""How long the other processes wait for the one that selects."""


class PolicyAnswerer:
    """A policy that answers under the protocol's direct prompt, without the tool.

    Args:
        policy: the policy that will be trained.
        protocol: its texts.
        rollout: how it is shown views, and its token limits; group size and temperature follow from ``config``.
        config: how many answers are given, and how they are drawn.
    """

    def __init__(self, policy: Policy, protocol: Protocol, rollout: RolloutConfig, config: ResolutionConfig) -> None:
        sampling = replace(rollout.sampling, temperature=config.temperature)
        several = replace(rollout, group_size=config.samples, sampling=sampling)
        played = rollout.greedy() if config.samples == 1 else several
        # "selected", so that a budget gives the very view that training will show
        view = replace(rollout.view, mode="selected")
        self._rollout = Rollout(policy, protocol, replace(played, view=view), direct=True)
        self._config = config

    @property
    def min_tokens(self) -> int:
        """Fewest visual tokens of a view."""
        return self._rollout.config.view.min_tokens

    def answer(self, samples: Sequence[Sample], budgets: Sequence[int]) -> list[list[str | None]]:
        """Answer each sample from its view.

        Sampled answers draw from random numbers that depend on the seed and the sample alone: not on what is answered
        in the same batch, so that an interrupted run ends with the same results, and not on the level, so that answers
        differ because of the view.
        """
        shown = [replace(sample, view_tokens=budget) for sample, budget in zip(samples, budgets, strict=True)]
        # a rollout seeds by the place in the batch, so sampled groups are played alone
        batches = [shown] if self._config.samples == 1 else [[sample] for sample in shown]
        runs = (self._rollout.run(batch, (self._config.seed, batch[0].key)) for batch in batches)
        return [[episode.answer for episode in group.episodes] for groups in runs for group in groups]


def make_header(
    policy: PolicyConfig,
    protocol: Protocol,
    rollout: RolloutConfig,
    config: ResolutionConfig,
    init_from: Path | None = None,
) -> ManifestHeader:
    """Everything that the results depend on besides the samples; results of other headers are not mixed in."""
    prompt = protocol.prompt("question", ("first", "second"), tool=False)
    details: dict[str, object] = {
        "original_tokens": config.original_tokens,
        "answers_per_level": config.samples,
        "require_correct": config.require_correct,
        "min_tokens": rollout.view.min_tokens,
        "max_answer_tokens": min(rollout.limits.max_turn_tokens, rollout.limits.max_episode_tokens),
        "prompt": f"sha256:{hashlib.sha256(prompt.encode()).hexdigest()}",
    }
    if config.samples > 1:
        details |= {"temperature": config.temperature, "top_p": rollout.sampling.top_p, "seed": config.seed}
    return ManifestHeader(fingerprint(init_from or policy.folder), config.ladder, details)


def select_with_policy(
    root: str | Path,
    policy: PolicyConfig,
    protocol: Protocol,
    rollout: RolloutConfig,
    config: ResolutionConfig,
    manifest: Path | None = None,
    init_from: Path | None = None,
    strict: bool = False,
) -> SelectionReport:
    """Load a policy and select the views of all samples that have no result yet.

    Args:
        root: the samples: a folder of shards, a glob pattern or a file.
        policy: the policy that will be trained.
        protocol: its texts.
        rollout: least view and token limits; the rest follows from ``config``.
        config: how views are selected.
        manifest: where results go; None for ``resolution.jsonl`` beside the shards, where training looks for it.
        init_from: weights that training will start from instead of the policy's own: a checkpoint or a model folder.
        strict: raise the first faulty sample instead of leaving it out.

    Raises:
        FileNotFoundError: if there are no shards, or no policy.
        PolicyError: if the policy cannot be used.
        ValueError: if the manifest was made with something else.
    """
    shards = find_shards(root)
    path = manifest or shards[0].parent / MANIFEST_NAME
    header = make_header(policy, protocol, rollout, config, init_from)
    if torch.cuda.is_available():  # nothing is trained here, and a GPU computes in half precision many times faster
        policy = replace(policy, dtype="bfloat16")
    loaded = load_policy(replace(policy, gradient_checkpointing=False), protocol.config.turn_end_texts)
    if init_from is not None:
        load_weights(loaded, init_from)
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    source = init_from or policy.path
    logger.info("%s answers from the views of %d shards; results go to %s.", source, len(shards), path)
    answerer = PolicyAnswerer(loaded, protocol, rollout, config)
    return select_resolutions(shards, answerer, config, path, header, SkipLog(strict=strict))


def ensure_manifest(
    root: str | Path,
    policy: PolicyConfig,
    protocol: Protocol,
    rollout: RolloutConfig,
    config: ResolutionConfig,
    manifest: Path | None = None,
    init_from: Path | None = None,
    strict: bool = False,
) -> None:
    """Make or finish the manifest of some shards, unless every sample has a result, whatever policy that is from.

    To be called by all processes at the same point. The first one works, on a policy of its own; the others wait. The
    manifest must be on a disk that all of them see. Arguments and errors as in `select_with_policy`.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        _finish(root, policy, protocol, rollout, config, manifest, init_from, strict)
        return
    # the default group's patience is minutes: selection may take hours
    group = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    if distributed.get_rank() == 0:
        _finish(root, policy, protocol, rollout, config, manifest, init_from, strict)
    distributed.barrier(group=group)
    distributed.destroy_process_group(group)


def _finish(
    root: str | Path,
    policy: PolicyConfig,
    protocol: Protocol,
    rollout: RolloutConfig,
    config: ResolutionConfig,
    manifest: Path | None,
    init_from: Path | None,
    strict: bool,
) -> None:
    shards = find_shards(root)
    path = manifest or shards[0].parent / MANIFEST_NAME
    found = load_manifest(path) if path.exists() else {}
    if found and next(pending(shards, found, config, SkipLog(strict=strict)), None) is None:
        logger.info("The resolution manifest %s is complete: %d samples.", path, len(found))
        _warn_of_other_settings(path, make_header(policy, protocol, rollout, config, init_from))
        return
    logger.info("The resolution manifest %s has %d results and is not complete: selecting the rest.", path, len(found))
    report = select_with_policy(root, policy, protocol, rollout, config, path, init_from, strict)
    logger.info("The resolution manifest %s is complete:\n%s", path, report.render())


def _warn_of_other_settings(path: Path, wanted: ManifestHeader) -> None:
    """Say that a complete manifest was made with another ladder or another way of answering.

    That another policy made it is as it should be: stage 2 and the control train on the views of stage 1.
    """
    found = load_header(path)
    ours, theirs = ({"ladder": h.ladder, **h.details} for h in (wanted, found))
    names = [name for name in ours if name in theirs and theirs[name] != ours[name]]
    changed = [f"{name} {theirs[name]} instead of {ours[name]}" for name in names]
    if changed:
        logger.warning("%s was made with %s, and is used as it is: remove it to select anew.", path, ", ".join(changed))
