"""Reading checkpoints of ours: the single file that Lightning writes, or the directory that a sharded run writes.

Nothing in a checkpoint can run code here, whoever wrote it:

* The single file, ``meta.pt`` and every tensor in the ``*.distcp`` files are read by ``torch.load`` with
  ``weights_only=True``.
* ``.metadata``, the directory's list of tensors and places, is a pickle in itself. torch's own reader hands it to
  ``pickle.load``, which calls whatever function the file names. ``_Names`` looks up the few data classes of such a list
  and refuses every other name (Python's documentation of ``pickle``, "Restricting Globals").
* torch reads objects that are no tensors without ``weights_only``. They are never asked for: only what ``.metadata``
  lists as a tensor is.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed.checkpoint import filesystem, state_dict_loader
from torch.distributed.checkpoint import metadata as listing
from torch.distributed.checkpoint.api import CheckpointException

from infogap.policy.loading import loading
from infogap.policy.vocabulary import PolicyError

LIST_NAME: Final = ".metadata"
REST_NAME: Final = "meta.pt"
"""In a directory Lightning keeps all but weights and optimiser in it, and writes it last."""

MODULE_PREFIX: Final = "policy."
"""The policy's name in the LightningModule, with which every weight's name begins."""
STATE_PREFIX: Final = f"state_dict.{MODULE_PREFIX}"
"""The same in a directory."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds of a policy.

    Attributes:
        weights: by their names in the policy. None is in memory before it is asked for, and none stays there.
        shapes: of the weights, without reading them.
        metadata: what ``GRPOModule`` wrote about the run; empty in a checkpoint that has no such part.
    """

    weights: Mapping[str, Tensor]
    shapes: Mapping[str, torch.Size]
    metadata: dict[str, Any]


def is_directory_checkpoint(path: Path) -> bool:
    """Whether a path is a directory that a sharded run has written, or has begun to write."""
    return any(True for pattern in (LIST_NAME, REST_NAME, "*.distcp") for _ in path.glob(pattern))


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint, a file or a directory; needs no process group.

    Raises:
        PolicyError: if there is none, or it is damaged, incomplete, or holds no policy.
    """
    if is_directory_checkpoint(path):
        shards = _Shards(path)
        rest = _load(path / REST_NAME)
        weights: Mapping[str, Tensor] = shards
        shapes = shards.shapes
    else:
        rest = _load(path)
        stored = rest.get("state_dict")
        if not isinstance(stored, dict):
            raise PolicyError(f"{path} has no 'state_dict': give a checkpoint that `infogap fit` has written.")
        names = [name for name in stored if name.startswith(MODULE_PREFIX)]
        weights = {name.removeprefix(MODULE_PREFIX): stored[name] for name in names}
        shapes = {name: value.shape for name, value in weights.items()}
    if not shapes:
        raise PolicyError(f"{path} holds no weights of a policy: give a checkpoint that `infogap fit` has written.")
    return Checkpoint(weights, shapes, rest.get("infogap", {}))


def read_run_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint that says which run it is of.

    Raises:
        PolicyError: if there is none, or it is damaged, incomplete, or says nothing of its run.
    """
    if not path.exists():
        raise PolicyError(f"The checkpoint {str(path)!r} does not exist: give one that `infogap fit` has written.")
    if path.is_dir() and not is_directory_checkpoint(path):
        raise PolicyError(f"{path} is a folder and no checkpoint: give one that `infogap fit` has written.")
    checkpoint = read_checkpoint(path)
    if not checkpoint.metadata:
        raise PolicyError(f"{path} does not say which run it is of: give one that `infogap fit` has written.")
    return checkpoint


def read_rollout_step(path: Path) -> int | None:
    """After how many rollout steps a checkpoint was written, without its weights; None if that cannot be read."""
    try:
        about = _load(path / REST_NAME if path.is_dir() else path).get("infogap")
    except PolicyError:
        return None
    step = about.get("rollout_step") if isinstance(about, dict) else None
    return step if isinstance(step, int) else None


def _load(path: Path) -> dict[str, Any]:
    if path.is_file() and not zipfile.is_zipfile(path):  # torch would speak of how it reads files, not of this one
        raise PolicyError(
            f"{path} cannot be loaded (it is cut off, or no checkpoint): give one that `infogap fit` has written."
        )
    with loading(path):
        # mapped, a weight is read from the disk when it is copied, and the optimiser's state never
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict):
        raise PolicyError(f"{path} holds a {type(content).__name__}: give a checkpoint that `infogap fit` has written.")
    return content


class _Shards(Mapping[str, Tensor]):
    """Weights in a directory, each put together from its pieces when it is asked for."""

    def __init__(self, folder: Path) -> None:
        for name in (LIST_NAME, REST_NAME):
            if not (folder / name).is_file():
                raise PolicyError(f"{folder} is incomplete, it has no {name}: give a checkpoint that was finished.")
        self._folder, self._reader = folder, _Reader(folder)
        with loading(folder / LIST_NAME):
            entries = self._reader.read_metadata().state_dict_metadata
            tensors = {key: entry for key, entry in entries.items() if isinstance(entry, listing.TensorStorageMetadata)}
            self._entries = {
                key.removeprefix(STATE_PREFIX): entry for key, entry in tensors.items() if key.startswith(STATE_PREFIX)
            }
            self.shapes = {name: entry.size for name, entry in self._entries.items()}
        self._check_files()

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        value = torch.empty(entry.size, dtype=entry.properties.dtype)
        with loading(self._folder), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*intent is to load in a single process.*")  # it is
            try:
                state_dict_loader.load({STATE_PREFIX + name: value}, storage_reader=self._reader, no_dist=True)
            except CheckpointException as error:  # derives from no Exception, and keeps the reason for itself
                raise next(iter(error.failures.values()))[0] from error
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _check_files(self) -> None:
        """A piece that is missing must be noticed before the first weight is copied into a policy."""
        for index, place in self._reader.read_metadata().storage_data.items():
            path = self._folder / place.relative_path
            if not path.is_file() or path.stat().st_size < place.offset + place.length:
                raise PolicyError(
                    f"{self._folder} is incomplete, {index.fqn} should be in {place.relative_path} and is not: give a "
                    "checkpoint that was finished."
                )


class _Reader(filesystem.FileSystemReader):
    """torch's reader with a list that is read once and cannot run code."""

    _listed: listing.Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> listing.Metadata:
        """See ``_Names``."""
        if self._listed is None:
            with (Path(self.path) / LIST_NAME).open("rb") as file:
                listed = _Names(file).load()
            listed.storage_meta = listed.storage_meta or listing.StorageMeta()
            self._listed = listed
        return self._listed


_CLASSES: Final = (
    listing.Metadata,
    listing.MetadataIndex,
    listing.TensorStorageMetadata,
    listing.BytesStorageMetadata,
    listing.ChunkStorageMetadata,
    listing.TensorProperties,
    listing.StorageMeta,
    listing._MEM_FORMAT_ENCODING,
    filesystem._StorageInfo,
    torch.Size,
)


class _Names(pickle.Unpickler):
    """Knows the names that a list of tensors is made of: data classes without behaviour, and types of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for every name in the file, before anything is made of it."""
        for known in _CLASSES:
            if (module, name) == (known.__module__, known.__qualname__):
                return known
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch.serialization", "_get_layout"):
            return {"torch.strided": torch.strided}.__getitem__
        if module.partition(".")[0] == "pathlib" and name in ("PosixPath", "WindowsPath"):
            return PurePath  # where the checkpoint was written, which matters to nobody
        raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in a list of tensors")
