"""Quality filters: steps that say of a sample why it should not train, composed in order and counted by name."""

from __future__ import annotations

from typing import Protocol

from infogap.data.sample import Sample


class Filter(Protocol):
    """One step.

    Attributes:
        name: what the samples that it drops are counted under, such as "small image".
    """

    name: str

    def keeps(self, sample: Sample) -> bool:
        """Whether the sample may train."""
