"""Every notebook runs from top to bottom, finds what it says, and shows outputs of the code that stands in it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from safetensors.torch import load_file

from infogap.policy.loading import PolicyConfig, load_policy

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 1_000_000
STARTED_IN = {"01_method": ROOT}
"""Working directories of kernels that are not started where the notebook lies, as some editors do."""


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beside the notebooks, and the scripts, can be imported."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(ROOT / "data_scripts"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def run(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers that a notebook finds now, and those that are kept in it."""
    from execute import execute, results

    kept = read(FOLDER / f"{name}.ipynb")
    fresh = copy.deepcopy(kept)
    execute(fresh, STARTED_IN.get(name, FOLDER))
    return results(fresh), results(kept)


def test_the_method_by_hand_is_the_method_of_the_package() -> None:
    found, kept = run("01_method")
    assert found["packed_gap"] < 1e-5
    assert found["packed_gap_float32"] < 1e-4
    assert found["sampler_gap"] < 1e-4
    assert max(found[name] for name in ("r_geo_gap", "advantage_gap", "loss_gap")) < 1e-5
    assert found["rewarded_probability_ratio"] > 1
    assert found["loss_fell"]
    assert found["rewarded_change"] > 0 > found["other_change"]
    assert found["accuracy_full"] > 0.8 > 0.3 > found["accuracy_16_tokens"]
    assert found["selected_view"] == kept["selected_view"]
    assert found["mean_reward"] == pytest.approx(kept["mean_reward"], abs=0.3)  # two episodes of sixteen may differ


def test_the_probes_tell_who_looks() -> None:
    found, kept = run("02_crop_dependence")
    control, stage1, stage2 = (f"{name} view" for name in ("control, full", "stage 1, selected", "stage 2, selected"))
    assert found["scenes"] == kept["scenes"] >= 36
    assert abs(found[f"{control}: dependence"]) < 0.1
    assert min(found[f"{stage}: dependence"] for stage in (stage1, stage2)) > 0.5
    assert found["control, selected view: dependence"] < 0.3
    assert min(found[f"{stage}: own"] for stage in (control, stage1, stage2)) > 0.85
    assert found[f"{stage2}: area"] < 0.8 * found[f"{stage1}: area"]
    assert found[f"{stage2}: IoU"] > found[f"{stage1}: IoU"] + 0.05
    assert found == pytest.approx(kept, abs=0.1)  # greedy; a tie may fall otherwise on another machine


def test_pictures_and_a_table_become_a_trained_policy() -> None:
    found, kept = run("03_your_own_data")
    exact = ("samples", "selected", "steps", "episodes", "page")
    assert {name: found[name] for name in exact} == {name: kept[name] for name in exact}
    assert (found["samples"], found["steps"], found["episodes"], found["page"]) == (24, 6, 6 * 4 * 16, True)
    assert found["accuracy"]["gt"] > found["accuracy"]["noise"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_that_are_kept_are_those_of_the_code(path: Path) -> None:
    from execute import sources_hash

    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    assert notebook.metadata["sources_sha256"] == sources_hash(notebook), f"run: python notebooks/execute.py {path}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    code[0].source += " "
    assert notebook.metadata["sources_sha256"] != sources_hash(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_says_nothing_of_the_machine(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    places = ("/tmp", "/home/", "/root/", "/work", "site-packages")
    texts = [text for cell in read(path).cells for text in (cell.source, *_texts(cell))]
    assert not [text for text in texts if any(place in text for place in places)]


def _texts(cell: Any) -> list[str]:
    """What a cell shows, pictures aside."""
    outputs = cell.get("outputs", [])
    shown = [str(value) for o in outputs for kind, value in o.get("data", {}).items() if kind.startswith("text/")]
    return [*shown, *(output.text for output in outputs if output.output_type == "stream")]


def test_every_notebook_is_run() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_method", "02_crop_dependence", "03_your_own_data"]


def test_what_training_changed_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from make_notebook_policies import VIEW_TOKENS, make

    policy = load_policy(PolicyConfig("needle", vision_tower="frozen"), ("</tool_call>",))
    head = policy.parts.model.language_model.norm.weight
    for number, stage in enumerate(VIEW_TOKENS, start=1):
        head.data += 0.125 * number
        state = {f"policy.{name}": value for name, value in policy.state_dict().items()}
        (tmp_path / stage / "checkpoints").mkdir(parents=True)
        torch.save({"state_dict": state}, tmp_path / stage / "checkpoints" / "last.ckpt")
    make(tmp_path, tmp_path / "out", scenes=2)
    assert capsys.readouterr().out.count("accuracy") == 3
    for stage, size in zip(VIEW_TOKENS, (0.125, 0.375, 0.75), strict=True):
        (weights,) = load_file(tmp_path / "out" / f"{stage}.safetensors").items()
        assert weights[0] == "model.language_model.norm.weight"
        assert weights[1].dtype is torch.bfloat16
        untrained = load_policy(PolicyConfig("needle")).parts.model.language_model.norm.weight
        assert torch.equal(weights[1].float(), (untrained + size).bfloat16().float())
