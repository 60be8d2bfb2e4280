"""Manifests made and finished: by a script, a share at a time, and before training, by all processes of the run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import distributed

from infogap.data.manifest import ManifestHeader, load_header, load_manifest, load_results, manifest_path
from infogap.data.shards import find_shards
from infogap.data.skips import SkipLog
from infogap.episode.protocol import Protocol
from infogap.policy.loading import PolicyConfig, load_policy
from infogap.policy.weights import load_weights
from infogap.resolution.config import ResolutionConfig
from infogap.resolution.policy import PolicyAnswerer, make_header
from infogap.resolution.ranks import Ranks, SelectionError
from infogap.resolution.report import SelectionReport
from infogap.resolution.selection import WHOLE, is_complete, select_resolutions
from infogap.resolution.shares import Share, found_results
from infogap.rollout import RolloutConfig

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 30.0
"""Seconds between two lines of progress, of all processes of a run together."""


@dataclass(frozen=True)
class _Job:
    """A manifest that is to be made; see `select_with_policy`."""

    root: str | Path
    policy: PolicyConfig
    protocol: Protocol
    rollout: RolloutConfig
    config: ResolutionConfig
    manifest: Path
    init_from: Path | None
    strict: bool

    @cached_property
    def header(self) -> ManifestHeader:
        """What its results are made with. Reads all weights, to name them."""
        return make_header(self.policy, self.protocol, self.rollout, self.config, self.init_from)

    def is_complete(self) -> bool:
        """Whether the manifest is there and has a result for every sample, whatever policy that is from."""
        if not self.manifest.exists():
            return False
        return is_complete(
            find_shards(self.root), load_manifest(self.manifest), self.config, SkipLog(strict=self.strict)
        )

    def run(self, share: Share, heartbeat: Callable[[], None], interval: float) -> SelectionReport | None:
        """Answer a share with a policy of its own."""
        policy, shards, header = self.policy, find_shards(self.root), self.header
        found_results(self.manifest, header)  # refuses results of another policy before this one is loaded
        if torch.cuda.is_available():  # nothing is trained here, and a GPU computes in half precision many times faster
            policy = replace(policy, dtype="bfloat16")
        loaded = load_policy(replace(policy, gradient_checkpointing=False), self.protocol.config.turn_end_texts)
        if self.init_from is not None:
            load_weights(loaded, self.init_from)
        loaded.to("cuda" if torch.cuda.is_available() else "cpu")
        source = self.init_from or policy.path
        logger.info(
            "%s answers from the views of %d shards, share %s; results go to %s.",
            source,
            len(shards),
            share,
            self.manifest,
        )
        answerer = PolicyAnswerer(loaded, self.protocol, self.rollout, self.config)
        skips = SkipLog(strict=self.strict)
        return select_resolutions(
            shards, answerer, self.config, self.manifest, header, skips, share, heartbeat, interval
        )


def select_with_policy(
    root: str | Path,
    policy: PolicyConfig,
    protocol: Protocol,
    rollout: RolloutConfig,
    config: ResolutionConfig,
    manifest: Path | None = None,
    init_from: Path | None = None,
    strict: bool = False,
    share: Share = WHOLE,
) -> SelectionReport | None:
    """Load a policy and select the views of all samples of a share that have no result yet.

    Shares need not know of each other: they may run on any machines that see the same disk, at any time, and another
    number of them may go on after a kill. The last one to finish writes the manifest.

    Args:
        root: the samples: a folder of shards, a glob pattern or a file.
        policy: the policy that will be trained.
        protocol: its texts.
        rollout: least view and token limits; the rest follows from ``config``.
        config: how views are selected.
        manifest: where results go; None for beside the shards, where training looks for it.
        init_from: weights that training will start from instead of the policy's own: a checkpoint or a model folder.
        strict: raise the first faulty sample instead of leaving it out.
        share: which samples.

    Returns:
        Counts over the whole manifest; None if other shares are not finished.

    Raises:
        FileNotFoundError: if there are no shards, or no policy.
        PolicyError: if the policy cannot be used.
        ValueError: if the manifest was made with something else, or another process works on the same share.
    """
    job = _Job(root, policy, protocol, rollout, config, manifest or manifest_path(root), init_from, strict)
    found = load_results(job.manifest, job.header)
    if found and job.is_complete():
        logger.info("The resolution manifest %s is complete.", job.manifest)
        return SelectionReport.of(found.values(), {})
    return job.run(share, lambda: None, LOG_INTERVAL_S)


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

    To be called by all processes at the same point. Each answers a share of the samples, with a policy of its own on
    its current device; if one fails, all do. The manifest must be on a disk that all of them see. Arguments and errors
    as in `select_with_policy`.

    Raises:
        SelectionError: if another process failed.
    """
    job = _Job(root, policy, protocol, rollout, config, manifest or manifest_path(root), init_from, strict)
    if not (distributed.is_available() and distributed.is_initialized()):
        if not _check(job):
            _tell(job, job.run(WHOLE, lambda: None, LOG_INTERVAL_S))
        return
    ranks = Ranks(job.manifest)
    try:
        if not ranks.first_only(lambda: _check(job)):
            interval = LOG_INTERVAL_S * ranks.share.count
            reports = ranks.together(lambda: job.run(ranks.share, ranks.check, interval))
            if ranks.share.number == 1:
                _tell(job, next((report for report in reports if report is not None), None))
    finally:
        ranks.leave()


def _check(job: _Job) -> bool:
    """Whether the manifest is complete, which the log says."""
    complete = job.is_complete()
    if complete:
        logger.info("The resolution manifest %s is complete.", job.manifest)
        _warn_of_other_settings(job.manifest, job.header)
    else:
        logger.info("The resolution manifest %s is not complete: selecting the rest.", job.manifest)
    return complete


def _tell(job: _Job, report: SelectionReport | None) -> None:
    if report is None:
        raise SelectionError(
            f"All processes have finished their shares of {job.manifest}, but none saw the parts of all others beside "
            "it: put it on a disk that all of them see, and start again."
        )
    logger.info("The resolution manifest %s is complete:\n%s", job.manifest, report.render())


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
