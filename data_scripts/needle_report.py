"""What the evaluations of several seeds say together, as the tables of the paper.

The seeds of a stage play the same scenes, so they count as attempts at the same rows: every number is the mean over
seeds, and its interval says how far it would move with other scenes. The range over seeds is given beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import infogap.evaluation.plots
from infogap.evaluation.benchmarks.registry import find_benchmark
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.prediction_file import FILE_NAME, load_contents
from infogap.evaluation.results import Number, Results, load_results

METRICS = ("accuracy", "tool_rate", "area_ratio", "iou", "coverage_above_tau", "visual_tokens")
COSTS = ("accuracy", "visual_tokens", "seconds_median", "seconds_p90")
NAMES = {
    "shipped": "shipped policy",
    "control": "control (no gap)",
    "stage1": "stage 1",
    "stage2": "stage 1 + 2",
}
MARKS = ("<!-- made by data_scripts/reproduce_needle.py -->\n", "<!-- end of what it made -->\n")

Report = Mapping[str, Any]


def merged(folders: Sequence[Path]) -> tuple[list[Prediction], dict[str, Any]]:
    """Predictions of several seeds, a seed an attempt, and how they were played."""
    contents = [load_contents(folder / FILE_NAME) for folder in folders]
    predictions = [
        replace(prediction, attempt=number)
        for number, content in enumerate(contents)
        for prediction in content.predictions.values()
    ]
    return predictions, dict(contents[0].protocol)


def read_report(policies: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """The numbers of each policy at each view: metrics of its arms, probes, and the accuracies of single seeds."""
    report: dict[str, Any] = {"policies": {}}
    for name, folders in policies.items():
        predictions, protocol = merged(folders)
        results = Results.of(predictions, find_benchmark("shards"), protocol)
        report["rows"] = results.counts["rows"]
        report["policies"][name] = {
            view: {
                "arms": {
                    arm: {metric: _plain(numbers[metric]) for metric in METRICS}
                    | {"seeds": _seeds(predictions, view, arm)}
                    for arm, numbers in found.arms.items()
                },
                "probes": {probe: _plain(number) for probe, number in found.probes.items()},
            }
            for view, found in results.views.items()
        }
    return report


def read_costs(folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What a question costs each policy, alone in its batch."""
    return [
        {"policy": name, "arm": arm, "view": view, **{metric: _plain(numbers[metric]) for metric in COSTS}}
        for name, folder in folders.items()
        for view, found in load_results(folder / "results.json").views.items()
        for arm, numbers in found.arms.items()
    ]


def write_plots(policies: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """The evaluation's own plots, of each policy."""
    for name, folders in policies.items():
        predictions, protocol = merged(folders)
        results = Results.of(predictions, find_benchmark("shards"), protocol)
        infogap.evaluation.plots.write_plots(results, predictions, folder / f"needle_{name}")


def tables(report: Report) -> str:
    """The report as Markdown: what replaces a crop, what crops are for, how boxes change, what a question costs."""
    return "\n\n".join((_replacements(report), _probes(report), _boxes(report), _costs(report)))


def headline(report: Report) -> str:
    """The table that says the most: accuracy without the tool, with the crop and without what it shows, and boxes.

    All at the selected view, but for the control, which never saw another than the full view, and is given at both.
    """
    lines = [
        "| policy | view | no tool | **own crop** | noise instead | crop dependence | IoU | crop area |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, view), label in PROBED.items():
        found = _view(report, name, view)
        if not found:
            continue
        arms, probes = found["arms"], found["probes"]
        cells = [_percent(arms[arm]["accuracy"]) for arm in ("no_tool", "own", "noise")]
        cells += [_percent(probes["crop_dependence"]), _written(arms["own"]["iou"], 1.0, 2, interval=False)]
        cells += [_written(arms["own"]["area_ratio"], 100.0, 1, interval=False) + " %"]
        shown = "full" if view == "1024" else view
        lines.append(f"| {label.partition(',')[0]} | {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(report: Report) -> str:
    """All tables, as a page of their own."""
    scenes = f"{report['rows']} held-out needle scenes, {len(report['seeds'])} seeds of training"
    heading = (
        f"# Results on needle scenes\n\nMade by `data_scripts/reproduce_needle.py`: {scenes}; {report['machine']}."
    )
    return f"{heading} Means with 95 % intervals (bootstrap over\nscenes).\n\n{tables(report)}\n"


def _replacements(report: Report) -> str:
    columns = ("no_tool", "own", "gt", "noise", "random", "other")
    lines = [
        "**What is shown in the place of the crop** (accuracy in %; the paper's table 1)",
        "",
        "| policy | view | no tool | own crop | ground truth | noise | random place | other image |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for view, label in (("1024", "full"), ("selected", "selected")):
        for name in NAMES:
            arms = _view(report, name, view).get("arms")
            if arms:
                cells = (_percent(arms[arm]["accuracy"]) for arm in columns)
                lines.append(f"| {NAMES[name]} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


PROBES = {
    "crop_dependence": "crop dependence: own minus noise",
    "gt_dependence": "ground truth minus noise",
    "crop_gain": "crop gain: own minus no tool",
    "crop_specificity": "crop specificity: own minus random place",
    "content_reliance": "content reliance: own minus other image",
    "gap_closure": "gap closure: share of what the ground truth would gain",
    "leakage": "leakage: text alone minus chance",
    "call_gain": "MED: call gain",
    "schema_gain": "MED: schema gain",
    "call_harm": "MED: call harm",
    "schema_harm": "MED: schema harm",
}


PROBED = {
    ("shipped", "selected"): "shipped policy",
    ("control", "1024"): "control, at the full view it was trained with",
    ("control", "selected"): "control",
    ("stage1", "selected"): "stage 1",
    ("stage2", "selected"): "stage 1 + 2",
}


def _probes(report: Report) -> str:
    lines = [
        "**Does it use its crops?** (points; at the selected view where not said otherwise; the first row is the "
        "paper's table 5)",
        "",
        "| | " + " | ".join(PROBED.values()) + " |",
        "|---|" + "---|" * len(PROBED),
    ]
    found = [_view(report, name, view).get("probes", {}) for name, view in PROBED]
    for probe, label in PROBES.items():
        lines.append(f"| {label} | " + " | ".join(_percent(numbers.get(probe)) for numbers in found) + " |")
    gain = "information gain of the first crop, nats a token"
    for probe, label in (("information_gain", gain), ("placebo_gain", "the same of another image's crop")):
        lines.append(f"| {label} | " + " | ".join(_written(numbers.get(probe), 1.0, 2) for numbers in found) + " |")
    return "\n".join(lines)


def _boxes(report: Report) -> str:
    lines = [
        "**What stage 2 changes** (at the selected view; the paper's table 4)",
        "",
        "| policy | accuracy, % | of single seeds | tool-call rate, % | mean best IoU | coverage of B_1 above 0.9, % | "
        "crop area over image area, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        own = _view(report, name, "selected")["arms"]["own"]
        seeds = ", ".join(f"{100 * value:.1f}" for value in own["seeds"])
        cells = (_percent(own["tool_rate"]), _written(own["iou"], 1.0, 3))
        cells += (_percent(own["coverage_above_tau"]), _percent(own["area_ratio"]))
        lines.append(f"| {NAMES[name]} | {_percent(own['accuracy'])} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _costs(report: Report) -> str:
    lines = [
        f"**What a question costs** (seed {report['seeds'][0]}, one question at a time; {report['machine']}; visual "
        "tokens count view and crops; the paper's table 6)",
        "",
        "| policy | arm | view | accuracy, % | visual tokens | ms a question, median | P90 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["costs"]:
        if row["policy"] == "control" and row["view"] != "1024":
            continue
        cells = [_percent(row["accuracy"]), _written(row["visual_tokens"], 1.0, 0)]
        cells += [_written(row[key], 1000.0, 0, interval=False) for key in ("seconds_median", "seconds_p90")]
        shown = {"1024": "full", "selected": "selected"}.get(row["view"], f"{row['view']} tokens")
        lines.append(
            f"| {NAMES[row['policy']]} | {row['arm'].replace('_', ' ')} | {shown} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def put_into(page: str, text: str) -> str:
    """A page with the text between the marks replaced."""
    before, _, rest = page.partition(MARKS[0])
    return f"{before}{MARKS[0]}{text}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def _view(report: Report, name: str, view: str) -> dict[str, Any]:
    found: dict[str, Any] = report["policies"][name].get(view, {})
    return found


def _seeds(predictions: Sequence[Prediction], view: str, arm: str) -> list[float]:
    """Accuracy of each seed."""
    right: dict[int, list[bool]] = {}
    for prediction in predictions:
        if (prediction.view, prediction.arm) == (view, arm):
            right.setdefault(prediction.attempt, []).append(prediction.correct)
    return [round(sum(values) / len(values), 4) for _, values in sorted(right.items())]


def _plain(number: Number) -> list[float | None]:
    """Value and ends of the interval; None where not defined."""
    return [round(value, 4) if math.isfinite(value) else None for value in (number.value, number.low, number.high)]


def _percent(number: Sequence[float | None] | None) -> str:
    return _written(number, 100.0, 1)


def _written(number: Sequence[float | None] | None, scale: float, digits: int, *, interval: bool = True) -> str:
    if number is None or number[0] is None:
        return ""
    values = [f"{scale * value + 0.0:.{digits}f}" for value in number if value is not None]
    return f"{values[0]} [{values[1]}, {values[2]}]" if interval and len(values) == 3 else values[0]
