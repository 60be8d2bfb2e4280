"""Resolution selection by the policy that will be trained: how it answers, and what names it in the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from infogap.data.manifest import ManifestHeader
from infogap.data.sample import Sample
from infogap.episode.protocol import Protocol
from infogap.policy.loading import PolicyConfig
from infogap.policy.model import Policy
from infogap.policy.weights import fingerprint
from infogap.resolution.config import ResolutionConfig
from infogap.resolution.questions import Budget
from infogap.resolution.views import with_views
from infogap.rollout import Rollout, RolloutConfig


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
        shown, hidden = (replace(played, view=replace(rollout.view, mode=mode)) for mode in ("selected", "none"))
        self._with_image = Rollout(policy, protocol, shown, direct=True)
        self._without_image = Rollout(policy, protocol, hidden, direct=True)
        self._config = config

    @property
    def min_tokens(self) -> int:
        """Fewest visual tokens of a view."""
        return self._with_image.config.view.min_tokens

    def answer(self, samples: Sequence[Sample], budgets: Sequence[Budget]) -> list[list[str | None]]:
        """Answer each sample from its view, or from the text alone, as the evaluation's arm without an image does.

        Sampled answers draw from random numbers that depend on the seed and the sample alone: not on what is answered
        in the same batch, so that an interrupted run ends with the same results, and not on the level, so that answers
        differ because of the view.
        """
        shown = [
            replace(s, view_tokens=budget) for s, budget in zip(samples, budgets, strict=True) if budget is not None
        ]
        hidden = [sample for sample, budget in zip(samples, budgets, strict=True) if budget is None]
        from_views = iter(self._play(self._with_image, with_views(shown, self.min_tokens)))
        from_text = iter(self._play(self._without_image, hidden))
        return [next(from_text if budget is None else from_views) for budget in budgets]

    def _play(self, rollout: Rollout, samples: Sequence[Sample]) -> list[list[str | None]]:
        """The answers to each sample."""
        # a rollout seeds by the place in the batch, so sampled groups are played alone
        batches = [samples] if self._config.samples == 1 else [[sample] for sample in samples]
        runs = (rollout.run(batch, (self._config.seed, batch[0].key)) for batch in batches if batch)
        return [[episode.answer for episode in group.episodes] for groups in runs for group in groups]


def make_header(
    policy: PolicyConfig,
    protocol: Protocol,
    rollout: RolloutConfig,
    config: ResolutionConfig,
    init_from: Path | None = None,
) -> ManifestHeader:
    """Everything that the results depend on besides the samples; results of other headers are not mixed in.

    Args:
        policy: the policy that answers.
        protocol: the texts of the prompt.
        rollout: how a view is cut and an answer drawn.
        config: the ladder and how often it is asked.
        init_from: weights instead of the policy's own; None for its own.
    """
    prompt = protocol.prompt("question", ("first", "second"), tool=False)
    details: dict[str, object] = {
        "original_tokens": config.original_tokens,
        "answers_per_level": config.samples,
        "require_correct": config.require_correct,
        "min_tokens": rollout.view.min_tokens,
        "max_answer_tokens": min(rollout.limits.max_turn_tokens, rollout.limits.max_episode_tokens),
        "prompt": f"sha256:{hashlib.sha256(prompt.encode()).hexdigest()}",
    }
    if config.order == "bisect":  # the other orders have the same results
        details["order"] = config.order
    if config.samples > 1:
        details |= {"temperature": config.temperature, "top_p": rollout.sampling.top_p, "seed": config.seed}
    return ManifestHeader(fingerprint(init_from or policy.folder), config.ladder, details)
