"""Every script under data_scripts/ runs, on a small scale, and the policy that ships can do what its card says."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from infogap.data.manifest import MANIFEST_NAME, load_manifest
from infogap.data.needle import NeedleConfig, make_samples
from infogap.data.shards import find_shards
from infogap.geometry import FramedBox, Size
from infogap.policy.loading import NEEDLE_POLICY, PolicyConfig
from infogap.resolution import ResolutionConfig
from infogap.rollout import RolloutConfig

SCRIPTS = Path(__file__).resolve().parents[1] / "data_scripts"
SCENES = NeedleConfig(sides=(224,), signs=(2, 2))

pytestmark = pytest.mark.filterwarnings(
    "ignore:LightningCLI's args parameter is intended to run from within Python:UserWarning",
)


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts can be imported, and leave torch as they found it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_scenes_are_written_and_their_views_selected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from make_needle_shards import make
    from needle_model import needle_protocol
    from select_resolution import select_resolution

    make(tmp_path, count=3, seed=4, scenes=SCENES)
    assert len(find_shards(tmp_path)) == 1
    ladder = ResolutionConfig(ladder=(32, 16))
    select_resolution(str(tmp_path), PolicyConfig(), needle_protocol().config, RolloutConfig(), ladder)
    assert len(load_manifest(tmp_path / MANIFEST_NAME)) == 3
    assert "selected" in capsys.readouterr().out


def test_a_script_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    script = SCRIPTS / "select_resolution.py"
    run = subprocess.run([sys.executable, script, str(tmp_path / "nowhere")], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: The path ")
    assert "Traceback" not in run.stderr


def test_the_shipped_policy_has_the_skills_of_its_card() -> None:
    """The card's bounds, less what 80 scenes instead of 300 may miss them by."""
    from measure_needle_policy import measure

    found = measure(NEEDLE_POLICY, 80, 2001)
    assert found["glyph_in_tight_crop"] >= 0.92
    assert found["box_on_asked_sign"] >= 0.60
    assert found["answer_at_full_view"] >= 0.85
    assert found["direct_answer_at_selected_view"] <= 0.30
    assert found["direct_answer_at_selected_view_sampled"] <= 0.30
    assert 0.20 <= found["tool_call_rate"] <= 0.80


def test_the_shipped_policy_is_an_ordinary_and_small_model_folder() -> None:
    from needle_model import needle_protocol

    assert sum(path.stat().st_size for path in NEEDLE_POLICY.iterdir()) < 8_000_000
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(NEEDLE_POLICY)
    assert sum(weight.numel() for weight in model.parameters()) < 4_000_000
    assert AutoImageProcessor.from_pretrained(NEEDLE_POLICY, use_fast=False).patch_size == 14
    protocol = needle_protocol()
    content = [{"type": "text", "text": "Why?"}, {"type": "image"}]
    messages = [
        {"role": "system", "content": protocol.config.tool_system_prompt},
        {"role": "user", "content": content},
    ]
    rendered = AutoTokenizer.from_pretrained(NEEDLE_POLICY).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert rendered == protocol.prompt("Why?", (), tool=True)


def test_the_shipped_policy_is_taught_calls_of_the_form_that_it_writes() -> None:
    """The grounding loss must not teach numbers that the policy spells digit by digit."""
    from needle_model import needle_protocol

    tokenizer = AutoTokenizer.from_pretrained(NEEDLE_POLICY)
    protocol = needle_protocol()
    for sample in make_samples(NeedleConfig(), 5, 20):
        for boxes in sample.evidence:
            box = FramedBox.from_original(boxes[1], protocol.config.frame, Size(112, 112), sample.image.size)
            numbers = re.search(r"\[(.*)\]", protocol.call_text(box))
            assert numbers is not None
            assert all(len(tokenizer.encode(number)) == 1 for number in numbers[1].split(", ") if number != "0")


def test_a_small_policy_can_be_trained_from_scratch(tmp_path: Path) -> None:
    import train_needle_policy

    args = argparse.Namespace(
        out=tmp_path, minutes=0.05, vision_minutes=[0.03, 0.03], begin_at=0.5, start_from=None, batch=8, scenes=40
    )
    vars(args).update(workers=1, lr=1e-3, width=64, layers=2, seed=0)
    train_needle_policy.train(args)
    report = json.loads((tmp_path / "training.json").read_text())
    assert report["samples"]["look"] > 0
    assert Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path).config.text_config.hidden_size == 64


def test_the_tables_of_the_readme_and_the_results_page_are_those_of_the_results() -> None:
    from needle_report import headline, page, put_into

    readme = (SCRIPTS.parent / "README.md").read_text()
    report = json.loads((SCRIPTS.parent / "docs/results/needle.json").read_text())
    assert len(report["seeds"]) == 3
    assert put_into(readme, headline(report)) == readme
    assert page(report) == (SCRIPTS.parent / "docs/results/needle.md").read_text()


def test_the_results_can_be_reproduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage and every number, far too short to show anything, and nothing is done twice."""
    import reproduce_needle
    from needle_report import headline, put_into, tables

    out, results, page = tmp_path / "out", tmp_path / "results", tmp_path / "README.md"
    page.write_text(
        "before\n<!-- made by data_scripts/reproduce_needle.py -->\nold\n<!-- end of what it made -->\nafter\n"
    )
    words = [
        "--quick",
        "--seeds",
        "3",
        "4",
        "--scenes",
        "8",
        "--scenes-seed",
        "77",
        f"--out={out}",
        f"--results={results}",
    ]
    reproduce_needle.main([*words, f"--readme={page}"])
    report = json.loads((results / "needle.json").read_text())
    assert page.read_text() == put_into(page.read_text(), headline(report))
    assert "old" not in page.read_text()
    assert report["seeds"] == [3]
    assert set(report["policies"]) == {"shipped", "stage1", "control", "stage2"}
    for views in report["policies"].values():
        assert set(views) == {"selected", "16"}
        assert {"own", "gt", "noise", "no_tool"} <= set(views["selected"]["arms"])
        assert {"crop_dependence", "gap_closure", "call_gain"} <= set(views["selected"]["probes"])
    assert {(row["policy"], row["arm"]) for row in report["costs"]} == {
        ("shipped", "no_tool"),
        ("control", "own"),
        ("stage1", "own"),
        ("stage2", "own"),
    }
    assert "| crop dependence: own minus noise |" in tables(report)
    assert (results / "needle_stage1" / "dependence.png").is_file()
    assert sys.path[0] == str(SCRIPTS)
    kept = [*out.rglob("*.ckpt"), *out.rglob("predictions.jsonl")]
    made = {path: path.stat().st_mtime_ns for path in kept}
    reproduce_needle.main(words)
    assert json.loads((results / "needle.json").read_text())["policies"] == report["policies"]
    assert {path: path.stat().st_mtime_ns for path in made} == made
