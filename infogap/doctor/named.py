"""What a configuration names, looked for where it should be: the model, its weights, the shards. Nothing is fetched."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, cast

from infogap.data.datamodule import ShardSource
from infogap.data.index import load_index
from infogap.data.manifest import load_manifest, manifest_path
from infogap.data.reader import is_remote
from infogap.data.shards import find_shards, walk
from infogap.doctor.findings import Finding, problem, warning
from infogap.doctor.reading import Run
from infogap.grpo.strategy import check_precision
from infogap.policy.loading import check_folder, read_patchifier
from infogap.policy.vocabulary import PolicyError


def look_at_model(run: Run, expected: int | None) -> list[Finding]:
    """The model's folder, and its weights by the headers of their files.

    Args:
        run: what was configured.
        expected: weights that a model of its config.json has; None if that could not be read.
    """
    folder = run.policy.folder
    found: list[Finding] = []
    try:
        check_folder(folder)
        read_patchifier(folder)
        if not (folder / "tokenizer_config.json").is_file():
            found.append(problem("model", f"{folder} has no tokenizer: copy it from the model that this one is from."))
        files = sorted(folder.glob("*.safetensors"))
        held = sum(map(count_header, files))
        if not files:
            found.append(problem("model", f"{folder} holds no *.safetensors: copy the weights there."))
        elif expected is not None and held < expected:
            found.append(
                problem("model", f"{folder} holds {held:,} of {expected:,} weights: copy the missing files there.")
            )
        else:
            found.append(Finding("model", f"{folder}: {held / 1e6:,.1f} million weights in {len(files)} file(s)"))
    except PolicyError as error:
        found.append(problem("model.policy.path", str(error)))
    return found


def count_header(path: Path) -> int:
    """Numbers in a safetensors file, by its header alone.

    Raises:
        PolicyError: if it is no such file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, LookupError, TypeError, AttributeError, OSError, struct.error, RecursionError) as error:
        raise PolicyError(f"{path} has no readable header ({error}): copy the file again.") from error


def look_at_shards(run: Run) -> list[Finding]:
    """Every source of samples: whether its shards are there, their index, and the views that were selected."""
    if not run.sources:
        return [problem("data.root", "is not set, nor is data.sources: give a folder of shards.")]
    return [found for source in run.sources for found in _source(source, run)]


def _source(source: ShardSource, run: Run) -> list[Finding]:
    if is_remote(source.root):
        return [Finding("data", f"{source.root} is remote, and was not asked")]
    try:
        shards = find_shards(source.root)
        index = load_index(shards[0].parent)
    except FileNotFoundError as error:
        if run.needle is None:
            return [problem("data.root", str(error))]
        drawn = Finding("data", f"{source.root}: fit will draw {run.needle.count} needle scenes there")
        return [drawn, *(_views(source, run) if source.manifest is not None else [])]
    except (OSError, ValueError) as error:
        return [problem("data.root", str(error))]
    faults: list[str] = []
    if next(walk(shards[0], faults.append), None) is None:
        text = f"{shards[0]} is no shard ({', '.join(faults) or 'it holds no file'}): give a tar file of samples."
        return [problem("data.root", text)]
    size = sum(shard.stat().st_size for shard in shards)
    samples = "" if index is None else f", {sum(entry.samples for entry in index.shards):,} samples"
    found = [Finding("data", f"{source.root}: {len(shards)} shards{samples}, {size / 1e9:.2f} GB")]
    if index is None:
        text = f"there is none: run `infogap data index {shards[0].parent}`, or every start reads all shards."
        found.append(warning("index", text))
    return found + _views(source, run)


def _views(source: ShardSource, run: Run) -> list[Finding]:
    """The manifest of a source: fit makes one where views are needed, and reads one that is named in any case."""
    manifest = manifest_path(source.root) if source.manifest is None else Path(source.manifest)
    try:
        load_manifest(manifest)
        return []
    except FileNotFoundError:
        if run.rollout.view.mode == "selected" or run.needs_views:
            text = f"{manifest} is not there: fit selects a view for every sample before its first step, or run "
            return [warning("views", f"{text}data_scripts/select_resolution.py first.")]
        if source.manifest is None:
            return []
        text = f"{manifest} does not exist: give the manifest of these shards, or null for the one beside them."
        return [problem("data.manifest", text)]
    except (OSError, ValueError) as error:
        return [problem("data.manifest", str(error))]


def look_at_processes(run: Run, number: int, there: int | None) -> list[Finding]:
    """Whether so many processes can train together.

    Args:
        run: what was configured.
        number: devices over all machines.
        there: devices of this machine; None if another one is planned for.
    """
    found = []
    mine = number // run.machines
    if there is not None and mine > there:
        found.append(
            problem("trainer.devices", f"{mine} are asked for, and this machine has {there}: lower trainer.devices.")
        )
    if number > 1 and not run.for_several:
        text = f"{number} processes need a strategy of ours: add --config configs/strategy/ddp.yaml (the whole policy "
        found.append(problem("trainer.strategy", f"{text}on every device) or configs/strategy/fsdp.yaml (sharded)."))
    if run.prompts_per_step % number:
        text = f"{run.prompts_per_step} is no multiple of {number} processes: change it or trainer.devices."
        found.append(problem("prompts_per_step", text))
    try:
        check_precision(cast(Any, run.strategy), run.precision, run.sharding.compute_dtype)
    except ValueError as error:
        found.append(problem("trainer.precision", str(error)))
    return found
