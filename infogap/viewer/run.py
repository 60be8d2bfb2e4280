"""A run as its folder holds it: the episodes of all ranks, and the shards that its configuration names."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infogap.arguments import CommandError
from infogap.pictures.record_file import EPISODE_FOLDER, EpisodeFileError, read_records
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
        EpisodeFileError: if a line is no episode, or one that an earlier line holds.
    """
    entries: dict[tuple[int, int, int, int], Entry] = {}
    for path in files:
        rank = _rank(path)
        facets = {"rank": str(rank)} if len(files) > 1 else {}
        for number, record in enumerate(read_records(path), 1):
            place = (record.rollout_step, rank, record.group, record.episode)
            label = f"step {record.rollout_step} · group {record.group} · episode {record.episode}"
            if place in entries:
                raise EpisodeFileError(
                    f"Line {number} of {path} is another episode {record.episode} of group {record.group} in rollout "
                    f"step {record.rollout_step}: remove one of the two, or number it anew."
                )
            *group, _ = map(str, place)
            entries[place] = Entry(record, "-".join(map(str, place)), "-".join(group), label, facets)
    return [entry for _, entry in sorted(entries.items(), key=lambda item: item[0])]


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


def part(config: Mapping[str, Any], names: str, folder: Path) -> Mapping[str, Any]:
    """A part of the configuration beside a run; empty if there is none.

    Args:
        config: see `read_config`.
        names: the names that lead to it, with dots.
        folder: the configuration's.

    Raises:
        CommandError: if what stands there is no mapping.
    """
    found: Any = config
    path: list[str] = []
    for name in names.split("."):
        path.append(name)
        found = {} if found.get(name) is None else found[name]
        if not isinstance(found, dict):
            raise wrong_value(folder, ".".join(path), found, "a mapping")
    return dict(found)


def wrong_value(folder: Path, name: str, value: object, wanted: str) -> CommandError:
    """The error of a configuration that a hand has changed.

    Args:
        folder: the configuration's.
        name: of the value, with dots.
        value: what it is.
        wanted: what it should be, in words.
    """
    return CommandError(f"{folder / CONFIG_NAME} has {value!r:.60} as {name}: give {wanted}, or leave it out.")


def shard_places(config: Mapping[str, Any], folder: Path) -> list[str]:
    """Where the configuration beside a run says that the shards are, those for training first.

    Args:
        config: see `read_config`.
        folder: the configuration's.

    Raises:
        CommandError: if a value is not of its kind.
    """
    data = part(config, "data", folder)
    sources = data.get("sources") or []
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        raise wrong_value(folder, "data.sources", sources, "a list of mappings, each with a root")
    roots = [("data.root", data.get("root")), *(("data.sources.root", source.get("root")) for source in sources)]
    roots.append(("data.val_root", data.get("val_root")))
    for name, root in roots:
        if root is not None and not isinstance(root, str):
            raise wrong_value(folder, name, root, "a path")
    return list(dict.fromkeys(root for _, root in roots if root))


def find_place(place: str, folder: Path) -> list[Path]:
    """Where a path of a configuration, or a glob pattern, leads to something on this machine.

    A relative one counts from the working folder, or from a folder above the run: where that was started.

    Args:
        place: as the configuration writes it.
        folder: of the run.
    """
    found = dict.fromkeys(above / place for above in (Path(), *folder.resolve().parents))
    return [path for path in found if path.exists() or glob.glob(str(path))]


def _rank(path: Path) -> int:
    """The rank that a file is named after; 0 for another name."""
    number = path.stem.removeprefix("rank_")
    return int(number) if number.isdecimal() else 0
