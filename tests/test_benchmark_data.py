"""The order in which rows are played, and which other image each has."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.evaluation.arms import Case
from infogap.evaluation.benchmarks.base import Benchmark
from infogap.evaluation.datamodule import BenchmarkDataModule, RowBatch, by_image, with_other_images
from infogap.evaluation.question import BenchmarkError, Question, Row, UnreadableRow


def picture(colour: int, side: int = 28) -> HighResImage:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (colour, 0, 0)).save(buffer, "PNG")
    return HighResImage(buffer.getvalue(), name=f"image{colour}")


IMAGES = {name: picture(number) for number, name in enumerate("abcdef")}


def rows(names: str) -> list[Row]:
    """A row for every letter, about the image of that letter; "-" is an unreadable row."""
    return [
        UnreadableRow(f"{number}-", f"Row {number} is broken.")
        if name == "-"
        else Question(Sample(f"{number}{name}", IMAGES[name], "What?", "3"), "", name, "What?")
        for number, name in enumerate(names)
    ]


def keys(found: Sequence[Row]) -> list[str]:
    return [row.key for row in found]


def test_rows_about_one_image_come_together_where_the_first_stands() -> None:
    assert keys(list(by_image(rows("abcab-ca")))) == ["0a", "3a", "7a", "1b", "4b", "2c", "6c", "5-"]


def test_what_lies_further_apart_than_memory_allows_stays_apart() -> None:
    most = sum(len(IMAGES[name].data) for name in "abc") - 1
    assert keys(list(by_image(rows("abca"), most))) == ["0a", "1b", "2c", "3a"]
    assert keys(list(by_image(rows("aba"), most))) == ["0a", "2a", "1b"]
    assert keys(list(by_image(rows("aba"), most_bytes=0))) == ["0a", "1b", "2a"]


@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_lost_or_doubled(seed: int) -> None:
    generator = random.Random(seed)
    names = "".join(generator.choices("abcdef-", k=40))
    most = generator.choice([0, 100, 300, 10_000])
    assert sorted(keys(list(by_image(rows(names), most)))) == sorted(keys(rows(names)))


def others(names: str) -> list[str | None]:
    found = []
    for row in with_other_images(rows(names)):
        if isinstance(row, Case):
            assert row.other is not row.question.sample.image
            found.append(next((n for n, image in IMAGES.items() if image is row.other), None))
    return found


def test_every_row_has_the_last_image_before_its_own() -> None:
    assert others("aabbc") == ["b", "b", "a", "a", "b"]
    assert others("-a-b") == ["b", "a"]
    assert others("abab") == ["b", "a", "b", "a"]
    assert others("aaa") == [None, None, None]


class Letters(Benchmark):
    name: ClassVar[str] = "letters"
    given: ClassVar[str] = ""

    def rows(self, root: Path) -> list[Row]:  # type: ignore[override]
        return rows(self.given)


def batches(monkeypatch: pytest.MonkeyPatch, names: str, **fields: object) -> list[RowBatch]:
    monkeypatch.setattr("infogap.evaluation.datamodule.find_benchmark", lambda name: Letters())
    monkeypatch.setattr(Letters, "given", names)
    return list(BenchmarkDataModule("letters", "/", **fields).batches())  # type: ignore[arg-type]


def shape(found: Sequence[RowBatch]) -> list[str]:
    return ["".join(case.question.cluster for case in batch.cases) + "-" * len(batch.unreadable) for batch in found]


def test_a_batch_does_not_part_rows_about_one_image_unless_it_would_double(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shape(batches(monkeypatch, "abcde", batch_size=2)) == ["ab", "cd", "e"]
    assert shape(batches(monkeypatch, "abbbc", batch_size=2)) == ["abbb", "c"]
    assert shape(batches(monkeypatch, "aaaaaab", batch_size=2)) == ["aaaa", "aab"[:2], "b"]


def test_a_limit_takes_the_first_rows_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shape(batches(monkeypatch, "abcabc", limit=4)) == ["aabc"]
    assert shape(batches(monkeypatch, "-abc", limit=2)) == ["a-"]


def test_rows_without_a_selected_view_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    (batch,) = batches(monkeypatch, "abc-", require_view_tokens=True)
    assert (batch.cases, len(batch.unreadable), batch.left_out) == ([], 1, 3)


def test_strict_stops_at_the_first_unreadable_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchmarkError, match=r"Row 1 is broken\."):
        batches(monkeypatch, "a-", strict=True)


@pytest.mark.parametrize("fields", [{"batch_size": 0}, {"limit": 0}])
def test_numbers_that_mean_nothing_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is 0: give at least 1"):
        BenchmarkDataModule("shards", "/", **fields)  # type: ignore[arg-type]
