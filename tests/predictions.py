"""Predictions made by hand, for tests of what is computed from them."""

from __future__ import annotations

from typing import Any, ClassVar

from infogap.evaluation.benchmarks.base import Benchmark
from infogap.evaluation.bootstrap import Bootstrap
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.sheet import Sheet, build_sheets

A_CROP = ((0.0, 0.0, 10.0, 10.0),)

TOOL_ARMS = ("own", "gt", "noise", "random", "other")


class HandMade(Benchmark):
    """A benchmark without files."""

    name: ClassVar[str] = "hand_made"

    def rows(self, root: Any) -> Any:
        return iter(())


def predict(key: str, correct: bool = True, arm: str = "own", **fields: Any) -> Prediction:
    """One prediction; under a tool's arm it cut a crop."""
    given = {
        "category": "colour",
        "subcategory": "",
        "variant": "",
        "base": key,
        "cluster": key,
        "gold": "A",
        "chance": 0.25,
        "view": "1024",
        "attempt": 0,
        "method": "letter",
        "crops": A_CROP if arm in TOOL_ARMS else (),
        "stop_reason": "answered",
    }
    return Prediction(key=key, correct=correct, arm=arm, **(given | fields))


def unreadable(key: str, arm: str = "own", **fields: Any) -> Prediction:
    """The prediction of a row that could not be read."""
    given = {"method": "unreadable", "stop_reason": "", "crops": (), "chance": 0.0, "category": ""}
    return predict(key, False, arm, **(given | {"reason": f"Row {key} of file.tsv has no image."} | fields))


def answers(arm: str, right: str, **fields: Any) -> list[Prediction]:
    """One prediction for every sign of ``right``: "1" is right, "0" wrong, "-" is no prediction."""
    return [predict(f"row{n:04}", sign == "1", arm, **fields) for n, sign in enumerate(right) if sign != "-"]


def sheet_of(predictions: list[Prediction], draws: int = 200) -> Sheet:
    """The sheet of predictions of one arm and view."""
    return Sheet(predictions, Bootstrap([prediction.cluster for prediction in predictions], draws))


def sheets_of(predictions: list[Prediction], draws: int = 200) -> dict[str, Sheet]:
    """The sheets of predictions of one view, by arm."""
    (sheets,) = build_sheets(predictions, Bootstrap([prediction.cluster for prediction in predictions], draws)).values()
    return sheets
