"""docs/configuration.md is what the code says now."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = runpy.run_path(str(ROOT / "data_scripts" / "make_configuration_page.py"))


def test_the_page_is_up_to_date() -> None:
    made, there = SCRIPT["make_page"](), (ROOT / "docs" / "configuration.md").read_text()
    assert made == there, "run python data_scripts/make_configuration_page.py"


def test_every_row_of_the_page_has_a_meaning_and_as_many_cells_as_its_table() -> None:
    rows = [line for line in SCRIPT["make_page"]().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    for row in rows:
        cells = row.replace("\\|", "").strip("|").split("|")
        assert len(cells) == 4, row
        assert len(cells[3].strip()) > 8, row


def test_nested_fields_are_rows_of_their_own() -> None:
    page = SCRIPT["make_page"]()
    assert '| `model.rollout.view.budget` | `INT` | `1024` | most visual tokens of a view in mode "budget"' in page
    assert "| `data.sources[].root` | `TEXT` | `required` |" in page
    assert "| `model.policy.vision_tower` | `full\\|frozen\\|lora` | `full` |" in page
    assert "`model.seed`" not in page
