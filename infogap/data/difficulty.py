"""Filters by how hard a sample is for the policy that selected its view, from the answers that the manifest keeps.

A question that is answered without the image teaches nothing about looking, and one that is answered in the view
nothing about cropping. Rules that compare answers stand above this room, so whoever makes a filter hands one in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from infogap.data.manifest import ORIGINAL, TEXT, ManifestEntry
from infogap.data.sample import Sample

Match = Callable[[str | None, str, Sequence[str]], bool]
"""Whether a policy's answer is right, given the right answer and the options: `match_answer` of `infogap.episode`."""


class MissingAnswerError(ValueError):
    """A manifest without an answer that a filter needs; the message says how to get it."""


class SolvedByText:
    """Drops samples that the policy answers right without an image.

    Args:
        entries: the manifest, made with ``resolution.ask_without_image``.
        match: whether an answer is right.

    Attributes:
        name: what the dropped samples are counted under.
    """

    name = "solved by text alone"

    def __init__(self, entries: Mapping[str, ManifestEntry], match: Match) -> None:
        self._entries, self._match = entries, match

    def keeps(self, sample: Sample) -> bool:
        """Whether the sample needs its image.

        Raises:
            MissingAnswerError: if it was not asked without one.
        """
        answers = _entry(self._entries, sample).answers
        if TEXT not in answers:
            raise MissingAnswerError(
                f"The manifest has no answer to {sample.key!r} from the text alone: run data_scripts/"
                "select_resolution.py on its shards with --resolution.ask_without_image true."
            )
        return not self._match(answers[TEXT], sample.answer, sample.options)


class SolvedInView:
    """Drops samples that the policy answers right in a view, without a crop.

    Args:
        entries: the manifest.
        budgets: views in visual tokens; a sample that is solved in any of them is dropped. Where a budget gives a
            sample the same view as its original, or as another budget, that answer counts. Empty: the selected view,
            and samples that have none are kept.
        match: whether an answer is right.

    Attributes:
        name: what the dropped samples are counted under.
    """

    def __init__(self, entries: Mapping[str, ManifestEntry], budgets: Sequence[int], match: Match) -> None:
        self._entries, self._budgets, self._match = entries, tuple(budgets), match
        views = " or ".join(map(str, self._budgets))
        self.name = f"solved in a view of {views} tokens" if views else "solved in the selected view"

    def keeps(self, sample: Sample) -> bool:
        """Whether the sample needs more than the view.

        Raises:
            MissingAnswerError: if it was not asked from one of the views.
        """
        entry = _entry(self._entries, sample)
        budgets = self._budgets or (() if entry.view_tokens is None else (entry.view_tokens,))
        answers = [_answer_in_view(entry, sample, budget) for budget in budgets]
        return not any(self._match(answer, sample.answer, sample.options) for answer in answers)


def _entry(entries: Mapping[str, ManifestEntry], sample: Sample) -> ManifestEntry:
    if sample.key not in entries:
        raise MissingAnswerError(
            f"The manifest has no result for {sample.key!r}: run data_scripts/select_resolution.py on its shards."
        )
    return entries[sample.key]


def _answer_in_view(entry: ManifestEntry, sample: Sample, budget: int) -> str | None:
    wanted = sample.image.view_size(budget)
    for name in _names(entry, budget):
        if name in entry.answers and sample.image.view_size(None if name == ORIGINAL else int(name)) == wanted:
            return entry.answers[name]
    raise MissingAnswerError(
        f"The manifest has no answer to {sample.key!r} from its view of {budget} tokens: remove it, and run "
        f"data_scripts/select_resolution.py on its shards with {budget} in --resolution.ladder, --resolution.order "
        "together and --resolution.keep_answers true."
    )


def _names(entry: ManifestEntry, budget: int) -> Iterator[str]:
    """Names of the answers that may be those of a budget's view, the likeliest first."""
    yield str(budget)
    yield ORIGINAL
    yield from (name for name in entry.answers if name.isdecimal())
