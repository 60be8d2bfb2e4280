"""What one episode of one row came to: a line of ``predictions.jsonl``, from which every number can be made again."""

from __future__ import annotations

from dataclasses import dataclass

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prediction:
    """One episode of one row under one arm and one view; an unreadable row has one for each as well.

    Attributes:
        key: the row.
        category: see ``Question``.
        subcategory: see ``Question``.
        variant: see ``Question``.
        base: see ``Question``.
        cluster: see ``Question``.
        gold: the right answer.
        chance: probability that a blind guess is right.
        view: budget of the view, such as "1024" or "selected".
        arm: name of the arm.
        attempt: number of the episode, from 0; above 0 only with several attempts a row.
        correct: whether the answer was right.
        method: rule that read the answer; "unanswered", "unmatched" or "unreadable" where none did.
        read: what the answer was read as.
        answer: the answer as it was given; None without one.
        turns: what the policy wrote, turn by turn.
        stop_reason: why the episode ended; "" for an unreadable row.
        bad_calls: calls that came back with an error.
        crops: regions that were asked for and cut, pixels of the original.
        view_tokens: visual tokens of the view.
        crop_tokens: visual tokens of all crops.
        policy_tokens: sampled tokens.
        seconds: wall time of the batch over its rows and attempts; None where several arms shared the work.
        area_ratio: mean area of the crops over the image's; None without a crop.
        iou: best IoU of a crop with one of the nested boxes; None without a crop or without evidence.
        coverage: how much of B_1 that crop covers; None likewise.
        box_iou: for each piece of evidence the best IoU of a crop with its B_1, averaged (TreeBench's mIoU); 0 without
            a crop, None without evidence.
        evidence_ratio: area of all B_1 over the image's; None without evidence.
        information_gain: mean log-probability of a token of the right answer after the first own crop, minus the same
            before any crop, in nats; None where it was not computed.
        placebo_gain: the same with another image's crop; None likewise.
        reason: why the row was unreadable; "" if it was not.
    """

    key: str
    category: str
    subcategory: str
    variant: str
    base: str
    cluster: str
    gold: str
    chance: float
    view: str
    arm: str
    attempt: int
    correct: bool
    method: str
    read: str = ""
    answer: str | None = None
    turns: tuple[str, ...] = ()
    stop_reason: str = ""
    bad_calls: int = 0
    crops: tuple[Corners, ...] = ()
    view_tokens: int = 0
    crop_tokens: int = 0
    policy_tokens: int = 0
    seconds: float | None = None
    area_ratio: float | None = None
    iou: float | None = None
    coverage: float | None = None
    box_iou: float | None = None
    evidence_ratio: float | None = None
    information_gain: float | None = None
    placebo_gain: float | None = None
    reason: str = ""
