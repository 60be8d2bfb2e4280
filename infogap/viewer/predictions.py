"""The predictions of an evaluation as episodes of a page.

A prediction holds what the policy wrote and which regions were cut, but not the question nor the sizes of the images:
those come from the benchmark's files, and follow from the configuration beside the predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from infogap.arguments import CommandError
from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.evaluation.benchmarks.registry import find_benchmark
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.prediction_file import FILE_NAME, load_predictions
from infogap.evaluation.question import BenchmarkError, Question
from infogap.evaluation.sheet import UNREADABLE
from infogap.geometry import Box, Size, visual_tokens
from infogap.pictures.record import EpisodeRecord, TurnRecord
from infogap.rollout import CropConfig
from infogap.types import StopReason
from infogap.viewer.entries import Entry
from infogap.viewer.run import CONFIG_NAME, find_place, part, wrong_value

OTHERWISE_SHOWN: Final[Mapping[str, str]] = {
    "gt": "the annotated evidence",
    "noise": "random pixels",
    "random": "a region elsewhere",
    "other": "a region of another image",
}
"""What the arms show in the place of the crops that were asked for."""

WITHOUT_VIEW: Final = ("gt_only", "no_image")


class Evaluation:
    """An evaluation's predictions with the questions that they answer.

    Args:
        path: the predictions file; the configuration is beside it.
        config: its configuration, as plain data.
        data: the benchmark's files, in the place of those that the configuration names.

    Attributes:
        entries: the episodes, those of a row in a row; rows that could not be read are left out.

    Raises:
        CommandError: if there is no configuration or a wrong one, or the questions cannot be had.
        BenchmarkError: if the predictions are damaged.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], data: str | None) -> None:
        predictions = [found for found in load_predictions(path) if found.method != UNREADABLE]
        samples = _samples(path, config, data, {prediction.key for prediction in predictions})
        self._min_tokens, self._crop = _sizes(config, path.parent)
        self._images = {key: sample.image for key, sample in samples.items()}
        rows: dict[str, list[Prediction]] = {}
        for prediction in predictions:
            if prediction.key in samples:
                rows.setdefault(prediction.key, []).append(prediction)
        self.entries = [
            self._entry(prediction, samples[key], row, number)
            for row, (key, members) in enumerate(rows.items())
            for number, prediction in enumerate(members)
        ]

    def find(self, record: EpisodeRecord) -> HighResImage | None:
        """The original of an episode's row."""
        return self._images.get(record.sample)

    def _entry(self, prediction: Prediction, sample: Sample, row: int, number: int) -> Entry:
        turns, view = self._turns(prediction, sample.image), self._view(prediction, sample)
        place = (prediction.key, prediction.view, prediction.arm, str(prediction.attempt))
        scores = {"accuracy": float(prediction.correct), "information_gain": prediction.information_gain}
        record = EpisodeRecord(
            rollout_step=0,
            group=row,
            episode=number,
            sample=prediction.key,
            question=sample.question,
            options=sample.options,
            expected_answer=prediction.gold,
            evidence=sample.evidence,
            view_size=view,
            original_size=sample.image.size,
            turns=turns,
            answer=prediction.answer,
            stop_reason=StopReason(prediction.stop_reason) if prediction.stop_reason else None,
            policy_tokens=prediction.policy_tokens,
            visual_tokens=prediction.view_tokens + prediction.crop_tokens,
            rewards={name: value for name, value in scores.items() if value is not None},
            total=None,
            advantage=None,
        )
        attempt = f" · attempt {prediction.attempt}" if prediction.attempt else ""
        label = f"{prediction.arm} · view {prediction.view}{attempt} · {prediction.key}"
        facets = {"arm": prediction.arm, "view": prediction.view}
        if prediction.category:
            facets["category"] = prediction.category
        name = "/".join(quote(part, safe="") for part in place)
        return Entry(record, name, prediction.key, label, facets, tuple(_notes(prediction)))

    def _view(self, prediction: Prediction, sample: Sample) -> Size | None:
        """Size of the view, None if there was none, or none of the whole image."""
        if prediction.arm in WITHOUT_VIEW:
            return None
        budget = int(prediction.view) if prediction.view.isdecimal() else sample.view_tokens
        size = sample.image.view_size(prediction.view_tokens if budget is None else budget, self._min_tokens)
        return size if visual_tokens(size) == prediction.view_tokens else None

    def _turns(self, prediction: Prediction, image: HighResImage) -> tuple[TurnRecord, ...]:
        """The turns, each with its crop as far as it is known.

        Where no call failed, every turn before the last has a crop. The sizes follow from the configuration, and are
        believed if they account for all visual tokens.
        """
        crops = [Box(*corners) for corners in prediction.crops]
        sizes: list[Size | None] = [
            image.crop_size(crop, self._crop.max_tokens, self._crop.min_tokens) for crop in crops
        ]
        tokens = sum(visual_tokens(size) for size in sizes if size is not None)
        if prediction.arm in OTHERWISE_SHOWN or tokens != prediction.crop_tokens:
            sizes = [None] * len(crops)
        turns = []
        for number, text in enumerate(prediction.turns):
            crop, size = (crops[number], sizes[number]) if number < len(crops) else (None, None)
            turns.append(TurnRecord(text, None, crop, None, size))
        return tuple(turns)


def _notes(prediction: Prediction) -> Iterator[str]:
    if prediction.arm in OTHERWISE_SHOWN and prediction.crops:
        shown = OTHERWISE_SHOWN[prediction.arm]
        yield f"In the arm {prediction.arm} the policy was shown {shown}; the crops here are those that it asked for."
    if prediction.arm == "gt_only":
        yield "In the arm gt_only the policy was shown the annotated evidence in the place of the view."
    if prediction.bad_calls and prediction.crops:
        yield "Some calls failed; predictions do not say which, so crops may stand with an earlier turn than theirs."


def _samples(path: Path, config: Mapping[str, Any], data: str | None, keys: set[str]) -> dict[str, Sample]:
    """The rows that were asked, by key."""
    about = part(config, "data", path.parent)
    name, root = about.get("benchmark"), data or about.get("root")
    for key, value in (("benchmark", name), ("root", root)):
        if value is not None and not isinstance(value, str):
            raise wrong_value(path.parent, f"data.{key}", value, "a text")
    if not name or not root:
        raise CommandError(
            f"{path} holds what the policy wrote, but not the questions, and there is no {CONFIG_NAME} beside it that "
            f"names the benchmark: keep {FILE_NAME} and {CONFIG_NAME} of the evaluation together."
        )
    places = [Path(root)] if data else find_place(root, path.parent) or [Path(root)]
    fault: Exception | None = None
    for place in places:
        try:
            rows = find_benchmark(name).rows(place)
            found = {row.key: row.sample for row in rows if isinstance(row, Question) and row.key in keys}
        except (BenchmarkError, OSError) as error:
            fault = fault or error
            continue
        if found or not keys:
            return found
    if fault is None:
        raise CommandError(f"{root} holds none of the rows that {path} answers: give the benchmark's files as --data.")
    raise CommandError(
        f"{path} holds what the policy wrote, but the questions are in the files of {name}, which cannot be read "
        f"({str(fault).rstrip('.')}): give them as --data."
    ) from fault


def _sizes(config: Mapping[str, Any], folder: Path) -> tuple[int, CropConfig]:
    """Fewest visual tokens of a view, and how large crops were shown."""
    play, crop = part(config, "model.play", folder), part(config, "model.play.crop", folder)
    default, values = CropConfig(), []
    for name, value in (
        ("min_view_tokens", play.get("min_view_tokens", 4)),
        ("crop.max_tokens", crop.get("max_tokens", default.max_tokens)),
        ("crop.min_tokens", crop.get("min_tokens", default.min_tokens)),
    ):
        if type(value) is not int or value < 1:
            raise wrong_value(folder, f"model.play.{name}", value, "a whole number of at least 1")
        values.append(value)
    try:
        return values[0], CropConfig(*values[1:])
    except ValueError as error:
        raise CommandError(f"{folder / CONFIG_NAME} has a wrong model.play, {error}") from error
