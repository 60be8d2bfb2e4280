"""The picture that is saved: an episode, or two side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from infogap.ask.playing import Played
from infogap.data.drawing import BLACK, GAP, beside, stack, text_block
from infogap.data.images import HighResImage
from infogap.pictures.episode import draw_episode


def draw(played: Sequence[Played], image: HighResImage) -> Image.Image:
    """Every episode under the name of its policy, side by side.

    Args:
        played: the episodes.
        image: the original; decoded once, and dropped again.

    Returns:
        An RGB picture.
    """
    columns = []
    for each in played:
        picture = draw_episode(each.record, image)
        name = text_block(each.policy, picture.width - 2 * GAP, BLACK)
        heading = Image.new("RGB", (picture.width, name.height + GAP), "white")
        heading.paste(name, (GAP, GAP))
        columns.append(stack([heading, picture], 0))
    image.release()
    return beside(columns)


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
