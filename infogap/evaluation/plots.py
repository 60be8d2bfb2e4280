"""Results as pictures: accuracy against visual tokens, what crops are worth, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from infogap.evaluation.prediction import Prediction
from infogap.evaluation.probes import DIFFERENCES
from infogap.evaluation.results import Number, Results, ResultsError
from infogap.evaluation.sheet import ARM_ORDER, view_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#7F7F7F")
"""Colours that are told apart with any colour vision (Okabe and Ito 2008, "Color Universal Design"), with grey."""

MARKERS: Final = "osD^vPX*"

STYLE: Final[Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def write_plots(results: Results, predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """Draw the plots for which there is something to draw.

    Args:
        results: the numbers.
        predictions: what they were made of, for the areas of crops.
        folder: where the PNG files go.

    Returns:
        The files: ``accuracy_against_tokens.png``, ``dependence.png``, ``crop_area.png``.

    Raises:
        ResultsError: if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = "Plots need matplotlib, which is not installed: pip install 'infogap[eval]'."
        raise ResultsError(msg) from error
    folder.mkdir(parents=True, exist_ok=True)
    drawings: Mapping[str, Callable[[Figure], bool]] = {
        "accuracy_against_tokens": lambda figure: draw_accuracy_against_tokens(figure, results),
        "dependence": lambda figure: draw_dependence(figure, results),
        "crop_area": lambda figure: draw_crop_area(figure, predictions),
    }
    written = []
    with matplotlib.rc_context(STYLE):
        for name, draw in drawings.items():
            figure = Figure(layout="constrained")
            if draw(figure):
                figure.savefig(folder / f"{name}.png")
                written.append(folder / f"{name}.png")
    return written


def draw_accuracy_against_tokens(figure: Figure, results: Results) -> bool:
    """A point for every arm and view, and a line for every arm over the views that are budgets.

    A view with a name, such as "selected", is hollow and on no line: it has another size for every row. Arms without
    any visual token are levels.

    Returns:
        Whether there was something to draw.
    """
    figure.set_size_inches(7, 4.5)
    axes = figure.subplots()
    drawn, ticks = False, set[int]()
    for arm in _arms(results):
        budgets, named = _points(results, arm, str.isdecimal), _points(results, arm, lambda view: not view.isdecimal())
        drawn = drawn or bool(budgets or named)
        if not any(tokens for tokens, _ in (*budgets, *named)):
            for number, (_, accuracy) in enumerate((*budgets, *named)):
                label = "_" if number else f"{arm} (no visual tokens)"  # one that begins so is not listed
                axes.axhline(100 * accuracy.value, color=_colour(arm), linestyle=":", linewidth=1.5, label=label)
            continue
        _draw_points(axes, arm, budgets, label=arm)
        _draw_points(axes, arm, named, label="_" if budgets else arm, linestyle="none", markerfacecolor="white")
        ticks |= {round(tokens) for tokens, _ in budgets} if arm == "no_tool" else set()
    if len(results.views) > 1:
        axes.set_xscale("log", base=2)
    if len(ticks) > 1:  # without the tool the view is all there is, so that the ticks are the views
        axes.set_xticks(sorted(ticks))
    axes.xaxis.set_major_formatter(lambda tokens, _: f"{tokens:,.0f}")
    hollow = "" if all(map(str.isdecimal, results.views)) else "\n(hollow: each row has a view of its own size)"
    axes.set(xlabel=f"visual tokens per question, view and crops{hollow}", ylabel="accuracy (%)")
    axes.set_title(results.benchmark)
    if drawn:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="arm")
    return drawn


def _points(results: Results, arm: str, holds: Callable[[str], bool]) -> list[tuple[float, Number]]:
    """Visual tokens and accuracy of an arm at the views of which a condition holds, by tokens."""
    of_views = [found.arms[arm] for view, found in results.views.items() if holds(view) and arm in found.arms]
    points = [(m["visual_tokens"].value, m["accuracy"]) for m in of_views if _is_defined(m["visual_tokens"])]
    return sorted(points, key=itemgetter(0))


def draw_dependence(figure: Figure, results: Results) -> bool:
    """Bars: the accuracy of every arm on the left, the differences that the probes measure on the right.

    Returns:
        Whether there was something to draw.
    """
    arms = _arms(results)
    probes = [name for name in (*DIFFERENCES, "leakage") if any(name in v.probes for v in results.views.values())]
    if not arms:
        return False
    figure.set_size_inches(10, 1.6 + 0.17 * max(len(arms), len(probes)) * (1 + len(results.views)))
    left, *right = figure.subplots(1, 2 if probes else 1, squeeze=False)[0]
    accuracies = {
        view: {arm: metrics["accuracy"] for arm, metrics in numbers.arms.items()}
        for view, numbers in results.views.items()
    }
    _draw_bars(left, arms, accuracies)
    left.set(xlabel="accuracy (%)", xlim=(0, 100), title=results.benchmark)
    for axes in right:
        _draw_bars(axes, probes, {view: numbers.probes for view, numbers in results.views.items()})
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel="difference in accuracy (percentage points)", title="probes")
    if len(results.views) > 1:
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), title="view (visual tokens)")
    return True


def draw_crop_area(figure: Figure, predictions: Sequence[Prediction]) -> bool:
    """How large the policy's own crops are: a histogram for every view, one below the other.

    Returns:
        Whether there was a crop under the arm "own".
    """
    ratios: dict[str, list[float]] = {}
    for prediction in predictions:
        if prediction.arm == "own" and prediction.area_ratio:
            ratios.setdefault(prediction.view, []).append(100 * prediction.area_ratio)
    if not ratios:
        return False
    figure.set_size_inches(7, 1.2 + 1.4 * len(ratios))
    first = min(math.floor(math.log10(min(map(min, ratios.values())))), 1)
    bins = np.logspace(first, 2, 6 * (2 - first) + 1)
    bins[-1] *= 1 + 1e-9  # a crop of the whole image, whatever rounding made of its area, is in the last bin
    rows = figure.subplots(len(ratios), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, view in zip(rows, sorted(ratios, key=view_place), strict=True):
        values = ratios[view]
        axes.hist(values, bins=list(bins), weights=np.full(len(values), 100 / len(values)), color=COLOURS[1])
        axes.set_title(f"view {view}, {len(values)} episodes with a crop", loc="left", fontsize=10)
    rows[-1].set_xscale("log")
    rows[-1].xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    figure.supxlabel("area of an episode's crops (mean) over that of the image (%)", fontsize=10)
    figure.supylabel("share of the episodes (%)", fontsize=10)
    return True


def _draw_points(axes: Axes, arm: str, points: Sequence[tuple[float, Number]], **style: Any) -> None:
    if not points:
        return
    axes.errorbar(
        [tokens for tokens, _ in points],
        [100 * accuracy.value for _, accuracy in points],
        yerr=_reach([accuracy for _, accuracy in points]),
        color=_colour(arm),
        marker=MARKERS[_place(arm)],
        markersize=6,
        linewidth=1.5,
        elinewidth=1,
        capsize=3,
        **style,
    )


def _draw_bars(axes: Axes, names: Sequence[str], by_view: Mapping[str, Mapping[str, Number]]) -> None:
    from matplotlib import colormaps

    height = 0.8 / len(by_view)
    shades = colormaps["viridis"](np.linspace(0.25, 0.85, len(by_view)))  # budgets have an order, so have these
    for place, (view, numbers) in enumerate(by_view.items()):
        held = [
            (row, numbers[name]) for row, name in enumerate(names) if name in numbers and _is_defined(numbers[name])
        ]
        axes.barh(
            [row + (place - (len(by_view) - 1) / 2) * height for row, _ in held],
            [100 * number.value for _, number in held],
            height=0.9 * height,
            xerr=_reach([number for _, number in held]),
            color=tuple(shades[place]),
            error_kw={"elinewidth": 1, "capsize": 2},
            label=view,
        )
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first on top
    axes.grid(visible=False, axis="y")


def _reach(numbers: Sequence[Number]) -> list[list[float]]:
    """How far the intervals reach below and above, in percent; not at all where there is none."""

    def reach(distance: float) -> float:
        return 0.0 if math.isnan(distance) else max(100 * distance, 0.0)

    return [[reach(n.value - n.low) for n in numbers], [reach(n.high - n.value) for n in numbers]]


def _arms(results: Results) -> list[str]:
    return list(dict.fromkeys(arm for numbers in results.views.values() for arm in numbers.arms))


def _is_defined(number: Number) -> bool:
    return not math.isnan(number.value)


def _place(arm: str) -> int:
    return ARM_ORDER.index(arm) if arm in ARM_ORDER else len(ARM_ORDER) - 1


def _colour(arm: str) -> str:
    return COLOURS[_place(arm)]
