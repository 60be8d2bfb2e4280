"""``infogap view RUN``: the episodes of a run as one HTML page, to be looked at in any browser and passed on."""

from __future__ import annotations

from collections.abc import Sequence


def main(words: Sequence[str]) -> None:
    """Make the page of a run; ``infogap view --help`` lists the options.

    Args:
        words: those that follow ``view``.

    Raises:
        CommandError: if they mean nothing, or the run has no episodes.
        ValueError: if a line of the run is no episode, or the shards cannot be read.
    """
    from infogap.viewer import command

    command.run(words)
