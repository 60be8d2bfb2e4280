"""Configuration files: which one cannot be read, and where, which jsonargparse does not say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the place."""


def check_files(words: Sequence[str]) -> None:
    """See that the configuration files of a command line are YAML, and hold fields, each once.

    Args:
        words: the words of the command line.

    Raises:
        ConfigError: if a file is a folder, no text, no YAML, holds no fields, or one of them twice.
    """
    joined = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    named = [after for word, after in itertools.pairwise(words) if word in ("--config", "-c")]
    load: Any = get_loader("yaml")
    for path in map(Path, [*joined, *named]):
        if path.is_dir():
            raise ConfigError(f"--config {path} is a folder: give a YAML file.")
        if path.is_file():  # of one that is not there jsonargparse says so
            _check_file(path, load)


def _check_file(path: Path, load: Any) -> None:
    try:
        text = path.read_text()
        content = load(text)
    except OSError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text: give a YAML file.") from error
    except Exception as error:  # of PyYAML, which jsonargparse brings along
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        raise ConfigError(f"{path} is no YAML{place} ({problem or type(error).__name__}): correct it.") from error
    if content is None:
        raise ConfigError(f"{path} holds no fields: write some into it, such as `model:`, or leave it out.")
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {' '.join(text.split()):.40} and must hold fields, such as `model:`.")
    _check_keys(path, yaml.compose(text))


def _check_keys(path: Path, node: Any) -> None:
    """YAML's reader takes the last of two equal keys without a word."""
    seen: dict[str, int] = {}
    for key, value in node.value if node.id == "mapping" else ():
        line, name = key.start_mark.line + 1, str(key.value)
        if name in seen:
            raise ConfigError(f"{path} holds {name} in line {seen[name]} and again in line {line}: remove one of them.")
        if name != "<<":
            seen[name] = line
        _check_keys(path, value)
    for item in node.value if node.id == "sequence" else ():
        _check_keys(path, item)
