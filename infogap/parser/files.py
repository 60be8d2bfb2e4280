"""Configuration files: which one cannot be read, and where, which jsonargparse does not say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import get_loader


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the place."""


def check_files(words: Sequence[str]) -> None:
    """See that the configuration files of a command line are YAML.

    Args:
        words: the words of the command line.

    Raises:
        ConfigError: if a file is a folder, no text, or no YAML.
    """
    joined = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    named = [after for word, after in itertools.pairwise(words) if word in ("--config", "-c")]
    load: Any = get_loader("yaml")
    for path in map(Path, [*joined, *named]):
        if path.is_dir():
            raise ConfigError(f"--config {path} is a folder: give a YAML file.")
        try:
            load(path.read_text() if path.is_file() else "")
        except OSError:
            raise
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is no text: give a YAML file.") from error
        except Exception as error:  # of PyYAML, which jsonargparse brings along
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
            place = "" if mark is None else f" in line {mark.line + 1}"
            raise ConfigError(f"{path} is no YAML{place} ({problem or type(error).__name__}): correct it.") from error
