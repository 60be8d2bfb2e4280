"""The training sets that can be converted, by the names that the command line knows them under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from infogap.data.convert.jsonl import JsonLines
from infogap.data.convert.mini_o3 import DeepEyes4K, VisualProbe
from infogap.data.convert.pixelreasoner import PixelReasoner
from infogap.data.convert.published import PublishedSource
from infogap.data.convert.thinklite import ThinkLite
from infogap.data.convert.verl import ChainOfFocus, DeepEyes, Verl
from infogap.data.convert.vstar_style import VStarStyle

SOURCES: Final[Mapping[str, type[PublishedSource]]] = {
    source.name: source
    for source in (
        DeepEyes,
        VisualProbe,
        DeepEyes4K,
        PixelReasoner,
        ChainOfFocus,
        ThinkLite,
        Verl,
        JsonLines,
        VStarStyle,
    )
}
"""All take the file or folder as it was downloaded; `VisualProbe` also takes boxes."""
