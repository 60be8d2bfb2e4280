"""A run as its folder holds it: the episodes of all ranks, and the shards that its configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infogap.arguments import CommandError
from infogap.pictures.record_file import EPISODE_FOLDER, read_records
from infogap.viewer.entries import Entry

CONFIG_NAME: Final = "config.yaml"


def episode_files(run: Path) -> list[Path]:
    """The files of episodes of a run, those of rank 0 first.

    Args:
        run: the folder of the run, its folder of episodes, or one such file.

    Raises:
        CommandError: if there are none.
    """
    if run.is_file():
        return [run]
    for folder in (run / EPISODE_FOLDER, run):
        found = [path for path in folder.glob("rank_*.jsonl") if path.stem.removeprefix("rank_").isdecimal()]
        if found:
            return sorted(found, key=_rank)
    fault = "holds no episodes" if run.is_dir() else "does not exist"
    raise CommandError(
        f"{run} {fault}: give the folder of a run, with {EPISODE_FOLDER}/rank_0.jsonl in it, which the callback "
        "EpisodeLogger writes, or such a file."
    )


def read_run(files: list[Path]) -> list[Entry]:
    """The episodes of all ranks, step by step and group by group.

    Raises:
        EpisodeFileError: if a line is no episode.
    """
    entries = []
    for path in files:
        rank = _rank(path)
        facets = {"rank": str(rank)} if len(files) > 1 else {}
        for record in read_records(path):
            group = f"{record.rollout_step}-{rank}-{record.group}"
            label = f"step {record.rollout_step} · group {record.group} · episode {record.episode}"
            entries.append(Entry(record, f"{group}-{record.episode}", group, label, facets))
    return sorted(entries, key=lambda entry: (*map(int, entry.group.split("-")), entry.record.episode))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration beside a run, read as plain data; empty if there is none.

    Raises:
        CommandError: if it is no YAML.
    """
    from jsonargparse import get_loader

    path = folder / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        found = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except Exception as error:  # the errors of the YAML library, which is not ours to know
        fault = str(error).partition("\n")[0]
        raise CommandError(f"{path} cannot be read ({fault}): correct it, or give the shards as --data.") from error
    return found if isinstance(found, dict) else {}


def run_folder(files: list[Path]) -> Path:
    """The folder of the run that files of episodes belong to: the one above theirs, if that has its usual name."""
    folder = files[0].resolve().parent
    return folder.parent if folder.name == EPISODE_FOLDER else folder


def shard_places(config: Mapping[str, Any]) -> list[str]:
    """Where a configuration says that the shards are, those for training first."""
    data = config.get("data")
    if not isinstance(data, dict):
        return []
    sources = data.get("sources") or []
    roots = [data.get("root"), *(source.get("root") for source in sources if isinstance(source, dict))]
    return list(dict.fromkeys(str(root) for root in (*roots, data.get("val_root")) if root))


def _rank(path: Path) -> int:
    """The rank that a file is named after; 0 for another name."""
    number = path.stem.removeprefix("rank_")
    return int(number) if number.isdecimal() else 0
