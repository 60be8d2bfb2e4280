"""What one sample is asked, what is a divergence, and what follows from the answers (LFPC section 3)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol as Interface

from infogap.data.manifest import ORIGINAL, TEXT, ManifestEntry, SelectionStatus
from infogap.data.sample import Sample
from infogap.episode.matching import match_answer, option_index
from infogap.resolution.config import ResolutionConfig
from infogap.resolution.orders import ORDERS, Search

Budget = int | None
"""Most visual tokens of the view that a question is asked with; None: no image."""

Questions = Generator[tuple[Budget, ...], tuple[str | None, ...], ManifestEntry]
"""Yields budgets that can be asked side by side, is sent an answer for each, returns the result."""


class Answerer(Interface):
    """Whoever answers the questions: a policy, or a script in a test."""

    @property
    def min_tokens(self) -> int:
        """Fewest visual tokens of a view, which decides whether two budgets give the same view."""

    def answer(self, samples: Sequence[Sample], budgets: Sequence[Budget]) -> list[list[str | None]]:
        """Answer each sample from its view of at most so many visual tokens, or without an image.

        Returns:
            For every sample as many answers as the majority is taken of; None where there is no answer.
        """


def same_answer(first: str | None, second: str | None, options: Sequence[str]) -> bool:
    """Whether a policy gave the same answer twice; no answer equals only no answer.

    Both answers were written by a policy, so both may name an option by its letter, where `match_answer` expects one of
    them to be from the data set.

    Args:
        first: one answer; None for none.
        second: the other one.
        options: texts of the options.
    """
    if first is None or second is None:
        return first is second
    chosen = (option_index(first, options), option_index(second, options)) if options else (None, None)
    if chosen != (None, None):
        return chosen[0] == chosen[1]
    return match_answer(first, second, ()) or match_answer(second, first, ())


def majority(answers: Sequence[str | None], options: Sequence[str]) -> str | None:
    """The answer that was given most often, as it was first written; among equals the one that came first."""
    groups: list[list[str | None]] = []
    for answer in answers:
        given = answer if answer and answer.strip() else None
        group = next((group for group in groups if same_answer(group[0], given, options)), None)
        if group is None:
            groups.append([given])
        else:
            group.append(given)
    return max(groups, key=len)[0]


def question(sample: Sample, config: ResolutionConfig, min_tokens: int, known: ManifestEntry | None) -> Questions:
    """Ask what is not known of a sample.

    Args:
        sample: the sample.
        config: how views are selected.
        min_tokens: see `Answerer`.
        known: its result, if only the answer without an image is missing.
    """
    if known is not None:
        (text,) = yield (None,)
        return known.joined(_entry(sample, known.status, known.view_tokens, {TEXT: text}))
    order, levels = ORDERS[config.order], config.levels(sample.image, min_tokens)
    ahead: tuple[Budget, ...] = (config.original_tokens, *(levels if order.all_at_once else ()))
    budgets = (*ahead, None) if config.ask_without_image else ahead
    found = dict(zip(budgets, (yield budgets), strict=True))
    original = found[config.original_tokens]
    status, selected = SelectionStatus.WRONG_ON_ORIGINAL, None
    if original is not None and (not config.require_correct or _is_right(original, sample)):
        selected = yield from _searched(order.search(levels), found, original, sample)
        status = SelectionStatus.NEVER_DIVERGES if selected is None else SelectionStatus.SELECTED
    named = {_name(budget, config): answer for budget, answer in found.items()}
    return _entry(sample, status, selected, named if config.keep_answers else {})


def _searched(
    search: Search, found: dict[Budget, str | None], original: str, sample: Sample
) -> Generator[tuple[Budget, ...], tuple[str | None, ...], int | None]:
    """The level that a search selects. Levels that it needs and that were not asked are asked, and added to `found`."""
    try:
        level = next(search)
        while True:
            if level not in found:
                (found[level],) = yield (level,)
            level = search.send(not same_answer(found[level], original, sample.options))
    except StopIteration as end:
        selected: int | None = end.value
        return selected


def _entry(
    sample: Sample, status: SelectionStatus, view_tokens: int | None, answers: Mapping[str, str | None]
) -> ManifestEntry:
    right = frozenset(name for name, answer in answers.items() if _is_right(answer, sample))
    return ManifestEntry(sample.key, status, view_tokens, answers, right)


def _is_right(answer: str | None, sample: Sample) -> bool:
    return match_answer(answer, sample.answer, sample.options)


def _name(budget: Budget, config: ResolutionConfig) -> str:
    """Name of an answer in the manifest."""
    return TEXT if budget is None else ORIGINAL if budget == config.original_tokens else str(budget)
