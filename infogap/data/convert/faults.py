"""Why a row of a training set makes no sample."""

from __future__ import annotations

from enum import StrEnum


class DropReason(StrEnum):
    """What rows that make no sample are counted under: few names, the same for all data sets."""

    UNREADABLE_ROW = "unreadable row"
    NO_IMAGE = "no image"
    SEVERAL_IMAGES = "several images"
    VIDEO = "video"
    MISSING_IMAGE = "missing image"
    UNREADABLE_IMAGE = "unreadable image"
    EMPTY_QUESTION = "empty question"
    EMPTY_ANSWER = "empty answer"
    SEVERAL_ANSWERS = "several answers"
    UNREADABLE_TEXT = "unreadable text"
    CHAT_MARKUP = "chat markup"
    BAD_OPTIONS = "bad options"
    BAD_BOXES = "bad boxes"
    BAD_ID = "bad id"
    BAD_METADATA = "bad metadata"


class DropError(ValueError):
    """A fault of one row.

    Args:
        reason: what it is counted under.
        fault: what is wrong and what to do, as a clause that reads on from "Row 3 of train.json: ", without a full
            stop.

    Attributes:
        reason: what it is counted under.
    """

    def __init__(self, reason: DropReason, fault: str) -> None:
        super().__init__(fault)
        self.reason = reason
