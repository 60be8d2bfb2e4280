"""The resolution manifest: results survive a kill, and do not mix with those of another policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infogap.data.manifest import (
    ManifestEntry,
    ManifestHeader,
    ManifestWriter,
    SelectionStatus,
    load_header,
    load_manifest,
    load_results,
    manifest_path,
    write_manifest,
)
from infogap.data.sample import Sample
from infogap.data.writing import write_shards

HEADER = ManifestHeader("policy-1a2b", (1024, 512, 256), {"answers_per_level": 1, "prompt": ("a", "b")})
SELECTED = ManifestEntry("a", SelectionStatus.SELECTED, 256)
NEVER = ManifestEntry("b", SelectionStatus.NEVER_DIVERGES)
WRONG = ManifestEntry("c", SelectionStatus.WRONG_ON_ORIGINAL)


def write(path: Path, *entries: ManifestEntry) -> None:
    with ManifestWriter(path, HEADER) as writer:
        for entry in entries:
            writer.append(entry)


def test_the_lines_are_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "new" / "resolution.jsonl"
    write(path, SELECTED, NEVER, WRONG)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {
            "schema": 1,
            "policy": "policy-1a2b",
            "ladder": [1024, 512, 256],
            "details": {"answers_per_level": 1, "prompt": ["a", "b"]},
        },
        {"key": "a", "view_tokens": 256, "status": "selected"},
        {"key": "b", "view_tokens": None, "status": "never_diverges"},
        {"key": "c", "view_tokens": None, "status": "wrong_on_original"},
    ]
    assert load_manifest(path) == {"a": SELECTED, "b": NEVER, "c": WRONG}
    assert load_header(path) == ManifestHeader(
        "policy-1a2b", (1024, 512, 256), {"answers_per_level": 1, "prompt": ["a", "b"]}
    )


def test_the_example_of_the_documentation_is_a_manifest(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "shard_format.md").read_text()
    path = tmp_path / "m.jsonl"
    path.write_text(page[page.index('    {"schema": 1, "policy"') :].split("\n\n")[0] + "\n")
    assert {key: entry.view_tokens for key, entry in load_manifest(path).items()} == {
        "taxi-17": 512,
        "taxi-18": None,
        "taxi-19": None,
    }


def test_a_result_is_on_disk_before_the_next_one_is_made(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with ManifestWriter(path, HEADER) as writer:
        assert load_manifest(path) == {}
        writer.append(SELECTED)
        assert load_manifest(path) == {"a": SELECTED}
        assert writer.entries == {"a": SELECTED}


def test_a_run_killed_at_any_byte_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, SELECTED, NEVER)
    whole = path.read_bytes()
    write(path, WRONG)
    resumed = path.read_bytes()
    assert resumed.startswith(whole)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with ManifestWriter(path, HEADER) as writer:
            for entry in (SELECTED, NEVER, WRONG):
                if entry.key not in writer.entries:
                    writer.append(entry)
        assert path.read_bytes() == resumed, cut


def test_a_torn_last_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, SELECTED, NEVER)
    path.write_bytes(path.read_bytes()[:-1])
    assert load_manifest(path) == {"a": SELECTED}


def test_the_last_line_of_a_key_wins(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, ManifestEntry("a", SelectionStatus.NEVER_DIVERGES), NEVER, SELECTED)
    assert load_manifest(path) == {"a": SELECTED, "b": NEVER}


@pytest.mark.parametrize(
    "other",
    [
        ManifestHeader("another", HEADER.ladder, HEADER.details),
        ManifestHeader(HEADER.policy, (1024, 512), HEADER.details),
        ManifestHeader(HEADER.policy, HEADER.ladder, {"answers_per_level": 4, "prompt": ("a", "b")}),
    ],
)
def test_results_of_another_policy_or_ladder_are_not_mixed_in(tmp_path: Path, other: ManifestHeader) -> None:
    path = tmp_path / "m.jsonl"
    write(path, SELECTED)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"m\.jsonl was made with .* name another file"):
        ManifestWriter(path, other)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"key": "x", "status": "selected"}',
        '{"key": "x", "view_tokens": null, "status": "selected"}',
        '{"key": "x", "view_tokens": 0, "status": "selected"}',
        '{"key": "x", "view_tokens": true, "status": "selected"}',
        '{"key": "x", "view_tokens": 64, "status": "never_diverges"}',
        '{"key": "x", "view_tokens": null, "status": "unknown"}',
        '{"key": 7, "view_tokens": null, "status": "never_diverges"}',
        '{"key": "x", "view_tokens": null, "status": "never_diverges", "answers": ["3"]}',
        '{"key": "x", "view_tokens": null, "status": "never_diverges", "answers": {"original": 3}}',
        '{"key": "x", "view_tokens": null, "status": "never_diverges", "answers": {"original": "3"}, "right": "3"}',
        '{"key": "x", "view_tokens": null, "status": "never_diverges", "right": ["original"]}',
        '{"key": "x", "view_tokens": null, "status": "never_diverges", "right": [["original"]]}',
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.jsonl"
    write(path, SELECTED)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"^Line 3 of the manifest .*m\.jsonl is broken"):
        load_manifest(path)


def test_a_file_that_is_no_manifest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with pytest.raises(FileNotFoundError):
        load_manifest(path)
    path.write_text("")
    with pytest.raises(ValueError, match="has no header line"):
        load_manifest(path)
    path.write_text('{"schema": 2, "policy": "x", "ladder": [], "details": {}}\n')
    with pytest.raises(ValueError, match=r"Line 1 .* schema is 2, but this version reads 1"):
        load_manifest(path)


def test_answers_are_written_from_the_original_down_to_the_text(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    answers = {"text": None, "64": "b", "512": "ü", "1024": "a", "original": "a"}
    entry = ManifestEntry("a", SelectionStatus.SELECTED, 64, answers, frozenset({"1024", "original"}))
    write(path, entry, NEVER)
    assert path.read_text().splitlines()[1:] == [
        '{"key": "a", "view_tokens": 64, "status": "selected", "answers": {"original": "a", "1024": "a", "512": "ü", '
        '"64": "b", "text": null}, "right": ["original", "1024"]}',
        '{"key": "b", "view_tokens": null, "status": "never_diverges"}',
    ]
    assert load_manifest(path) == {"a": entry, "b": NEVER}
    assert len({entry, NEVER}) == 2  # they can stand in sets


def test_results_of_a_sample_are_joined(tmp_path: Path) -> None:
    first = ManifestEntry(
        "a", SelectionStatus.SELECTED, 64, {"64": "7", "original": "3"}, frozenset({"original", "64"})
    )
    later = ManifestEntry("a", SelectionStatus.SELECTED, 64, {"64": "8", "text": "3"}, frozenset({"text"}))
    joined = first.joined(later)
    assert joined.answers == {"64": "8", "original": "3", "text": "3"}
    assert joined.right == {"original", "text"}
    with pytest.raises(ValueError, match="name only answers that are there"):
        ManifestEntry("a", SelectionStatus.NEVER_DIVERGES, None, {"64": "7"}, frozenset({"text"}))


def test_a_whole_manifest_is_written_as_line_by_line(tmp_path: Path) -> None:
    write(tmp_path / "lines.jsonl", SELECTED, NEVER)
    (tmp_path / "m.jsonl").write_text("what was there before")
    write_manifest(tmp_path / "m.jsonl", HEADER, [SELECTED, NEVER])
    assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "lines.jsonl").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_results_that_were_only_begun_are_none(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert load_results(path, HEADER) == {}
    path.write_text('{"schema": 1, "pol')
    assert load_results(path, HEADER) == {}
    path.unlink()
    write(path, NEVER)
    assert load_results(path, HEADER) == {"b": NEVER}
    with pytest.raises(ValueError, match="was made with"):
        load_results(path, ManifestHeader("another", HEADER.ladder, HEADER.details))


def test_a_manifest_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with ManifestWriter(path, HEADER) as writer:
        writer.append(NEVER)
        with pytest.raises(ValueError, match=r"m\.jsonl is being written by another process: wait for it, or end it"):
            ManifestWriter(path, HEADER)
    write(path, SELECTED)
    assert list(load_manifest(path)) == ["b", "a"]


def test_the_manifest_lies_beside_the_shards_under_the_name_of_their_index(
    tmp_path: Path, make_sample: Callable[..., Sample]
) -> None:
    (shard,) = write_shards([make_sample("a")], tmp_path / "set", 1)
    for root in (tmp_path / "set", shard, str(tmp_path / "set" / "*.tar")):
        assert manifest_path(root) == tmp_path / "set" / "resolution.jsonl"
    index = json.loads((tmp_path / "set" / "shards.json").read_text())
    (tmp_path / "set" / "shards.json").write_text(json.dumps({**index, "resolution": "views.jsonl"}))
    for root in (tmp_path / "set", shard, str(tmp_path / "set" / "*.tar")):
        assert manifest_path(root) == tmp_path / "set" / "views.jsonl"
    (tmp_path / "set" / "shards.json").unlink()
    assert manifest_path(tmp_path / "set") == tmp_path / "set" / "resolution.jsonl"
