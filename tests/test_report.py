from __future__ import annotations

import builtins
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from predictions import HandMade, answers, predict, unreadable
from rich.console import Console

from infogap.evaluation.bootstrap import Estimate
from infogap.evaluation.plots import draw_accuracy_against_tokens, draw_crop_area, draw_dependence, write_plots
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.report import print_report, to_markdown, write_report
from infogap.evaluation.results import Number, Results, ResultsError
from infogap.evaluation.sheet import ARM_ORDER, Sheet
from infogap.evaluation.tables import POINTS, TOKENS, Table, format_number, overview, split_columns


class Scored(HandMade):
    def scores(self, sheet: Sheet) -> dict[str, Estimate]:
        return {"mean over cycles": sheet.accuracy}


def play(
    arms: tuple[str, ...] = ARM_ORDER, views: tuple[str, ...] = ("576", "4096"), rows: int = 60
) -> list[Prediction]:
    """Predictions of a made-up policy that is better with crops and with larger views."""
    random = np.random.default_rng(0)
    chance = {"no_image": 0.3, "no_tool": 0.5, "own": 0.7, "gt": 0.8, "gt_only": 0.75}
    made = []
    for view in views:
        for arm in arms:
            skill = chance.get(arm, 0.45) + 0.1 * (view == "4096")
            own = {"area_ratio": None, "iou": None}
            for n in range(rows):
                if arm == "own":
                    own = {"area_ratio": float(min(10 ** random.normal(-2, 0.5), 1)), "iou": float(random.random())}
                right = bool(random.random() < skill)
                fields = {
                    "category": f"kind {n % 3}",
                    "cluster": str(n // 2),
                    "evidence_ratio": 10 ** -(1 + n % 3),
                    **own,
                }
                tokens = {"view_tokens": 0 if arm == "no_image" else int(view), "crop_tokens": 256 * (arm == "own")}
                made.append(predict(f"row{n}", right, arm, view=view, seconds=0.2, **fields, **tokens))
    return [*made, unreadable("row|x", "own", view=views[0], reason="Row 7 of a|b.tsv has no image.")]


def results_of(predictions: list[Prediction], **protocol: Any) -> Results:
    return Results.of(predictions, Scored(), protocol)


def printed(results: Results, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(results, console)
    return console.file.getvalue()


def test_numbers_are_written_with_their_interval() -> None:
    assert format_number(Number(0.78, 0.723, 0.835, 9)) == "78.0 [72.3, 83.5]"
    assert format_number(Number(0.78, 0.723, 0.835, 9), interval=False) == "78.0"
    assert format_number(Number(0.042, -0.01, 0.09, 9), POINTS) == "+4.2 [-1.0, +9.0]"
    assert format_number(Number(0.0, -0.0001, 0.0, 9), POINTS) == "0.0 [0.0, 0.0]"
    assert format_number(Number(1024.4, 1000, 1100, 9), TOKENS) == "1024 [1000, 1100]"


def test_what_is_not_defined_is_a_dash_and_what_has_no_interval_stands_alone() -> None:
    nan = math.nan
    assert format_number(None) == format_number(Number(nan, nan, nan, 0)) == "\N{EN DASH}"
    assert format_number(Number(0.5, nan, nan, 1)) == "50.0"


def test_the_terminal_shows_every_arm_within_a_hundred_columns() -> None:
    text = printed(results_of(play()))
    assert max(map(len, text.splitlines()[1:-3])) <= 100
    for arm in ARM_ORDER:
        assert arm in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for probe in ("crop_dependence", "gap_closure", "schema_harm", "leakage"):
        assert probe in text
    assert "61 rows in 31 clusters, 1 of them unreadable" in text
    assert "Unreadable rows count as wrong." in text


def test_every_accuracy_in_the_terminal_has_its_interval_on_one_line() -> None:
    results = results_of(play())
    lines = printed(results).splitlines()
    for view in results.views.values():
        for arm, metrics in view.arms.items():
            accuracy = format_number(metrics["accuracy"])
            assert any(line.split()[:1] == [arm] and accuracy in line for line in lines), arm


def test_text_that_looks_like_markup_is_shown_as_it_is() -> None:
    rows = [predict(key, arm="[red]own[/red]") for key in "ab"]
    assert "[red]own[/red]" in printed(results_of(rows))


def test_the_report_holds_everything(tmp_path: Path) -> None:
    results = results_of(play(), temperature=0.0, judge="none")
    plots = [tmp_path / "plots" / "dependence.png"]
    write_report(results, tmp_path / "report.md", plots)
    text = (tmp_path / "report.md").read_text()
    for part in (
        "kind 2",
        "0.1 to 1 %",
        '"judge": "none"',
        "(<plots/dependence.png>)",
        "mean over cycles",
        "seconds_p90",
    ):
        assert part in text
    assert r"Row 7 of a\|b.tsv has no image." in text
    for view in results.views.values():
        for metrics in view.arms.values():
            assert format_number(metrics["accuracy"]) in text


def test_every_markdown_table_has_as_many_cells_in_each_line(tmp_path: Path) -> None:
    write_report(results_of(play()), tmp_path / "report.md")
    tables = [part for part in (tmp_path / "report.md").read_text().split("\n\n") if part.startswith("|")]
    assert len(tables) > 8
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_a_cell_cannot_break_a_markdown_table() -> None:
    text = to_markdown(Table("Title", ("a|b", "c"), (("x\ny", "1"),)))
    assert text.splitlines() == ["### Title", "", "| a\\|b | c |", "| --- | ---: |", "| x y | 1 |"]


def test_results_of_one_row_can_be_shown(tmp_path: Path) -> None:
    results = results_of([predict("a", True)])
    assert "100.0" in printed(results)
    write_report(results, tmp_path / "report.md")


def test_results_without_any_number_can_be_shown(tmp_path: Path) -> None:
    results = results_of([unreadable("a")], unreadable="excluded")
    assert "Unreadable rows are left out." in printed(results)
    write_report(results, tmp_path / "report.md", write_plots(results, [unreadable("a")], tmp_path))
    assert not list(tmp_path.glob("*.png"))


def test_a_wide_table_is_cut_between_columns() -> None:
    table = Table("Title", ("", "one", "two", "three"), (("name", "x" * 20, "y" * 20, "z" * 20),))
    parts = split_columns(table, 60)
    assert [part.header for part in parts] == [("", "one", "two"), ("", "three")]
    assert parts[1].rows == (("name", "z" * 20),)
    assert [part.header for part in split_columns(table, 5)] == [("", "one"), ("", "two"), ("", "three")]


def test_the_overview_takes_its_rows_from_the_arms() -> None:
    results = results_of(answers("own", "110") + answers("gt", "-11"))
    assert [row[:2] for row in overview("1024", results.views["1024"]).rows] == [("own", "3"), ("gt", "2")]


def test_plots_are_images_with_something_on_them(tmp_path: Path) -> None:
    predictions = play()
    files = write_plots(results_of(predictions), predictions, tmp_path / "plots")
    assert [file.name for file in files] == ["accuracy_against_tokens.png", "dependence.png", "crop_area.png"]
    for file in files:
        with Image.open(file) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


def test_plots_leave_out_what_there_is_no_data_for(tmp_path: Path) -> None:
    predictions = play(arms=("no_tool",))
    files = write_plots(results_of(predictions[:-1]), predictions, tmp_path)
    assert [file.name for file in files] == ["accuracy_against_tokens.png", "dependence.png"]


def test_plots_show_the_numbers() -> None:
    results = results_of(play(arms=("no_image", "no_tool", "own"), views=("576",)))
    numbers = results.views["576"]
    figure = Figure()
    assert draw_dependence(figure, results)
    bars = [[bar.get_width() for bar in axes.patches] for axes in figure.axes]
    assert bars[0] == pytest.approx([100 * metrics["accuracy"].value for metrics in numbers.arms.values()])
    assert bars[1] == pytest.approx([100 * numbers.probes[name].value for name in ("crop_gain", "leakage")])

    figure = Figure()
    assert draw_accuracy_against_tokens(figure, results)
    (level,) = [line for line in figure.axes[0].lines if line.get_label() == "no_image (no visual tokens)"]
    assert set(level.get_ydata()) == {100 * numbers.arms["no_image"]["accuracy"].value}
    own = numbers.arms["own"]
    (curve,) = [c for c in figure.axes[0].containers if c.get_label() == "own"]
    assert [*curve[0].get_xdata(), *curve[0].get_ydata()] == pytest.approx([832, 100 * own["accuracy"].value])
    ((_, low), (_, high)) = curve[2][0].get_segments()[0]
    assert (low, high) == pytest.approx((100 * own["accuracy"].low, 100 * own["accuracy"].high))


def test_a_view_with_a_name_is_on_no_line() -> None:
    figure = Figure()
    played = play(arms=("no_tool", "own"), views=("576", "1024", "2048"))
    results = results_of([replace(p, view="selected") if p.view == "2048" else p for p in played])
    assert draw_accuracy_against_tokens(figure, results)
    curves = {c.get_label(): c[0] for c in figure.axes[0].containers if c[0].get_linestyle() != "None"}
    assert {name: len(line.get_xdata()) for name, line in curves.items()} == {"no_tool": 2, "own": 2}
    alone = [c[0] for c in figure.axes[0].containers if c[0].get_linestyle() == "None"]
    assert [len(line.get_xdata()) for line in alone] == [1, 1]
    assert "hollow" in figure.axes[0].get_xlabel()


def test_a_crop_of_the_whole_image_is_in_the_histogram() -> None:
    figure = Figure()
    assert draw_crop_area(figure, [predict("a", area_ratio=1.0), predict("b", area_ratio=0.0001)])
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert (heights[0], heights[-1], sum(heights)) == (50, 50, 100)


def test_without_matplotlib_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **words: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **words)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ResultsError, match=r"pip install 'infogap\[eval\]'"):
        write_plots(results_of([predict("a")]), [predict("a")], tmp_path)
