"""How a command with a configuration speaks: its help, its mistakes in one sentence, its printed configuration.

``ShortParser`` changes how jsonargparse's parser speaks, not how it reads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from infogap.parser.classes import explain_constructor
from infogap.parser.comments import comment, texts_of
from infogap.parser.fields import fields_of
from infogap.parser.files import ConfigError
from infogap.parser.help import GENERAL, render, render_classes, render_trainer
from infogap.parser.messages import explain


class TrainerHelp(argparse.Action):
    """``--trainer.help``: prints what the trainer's options are, and ends.

    Args:
        **settings: those of `argparse.Action`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "nargs": 0, "dest": argparse.SUPPRESS, "default": argparse.SUPPRESS})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print them."""
        assert isinstance(parser, ShortParser)
        print(render_trainer(parser.sections["trainer"]), end="")
        parser.exit()


class ShortParser(ArgumentParser):
    """A parser that remembers the classes whose fields it reads, and says in a sentence what is wrong.

    Args:
        *args: those of jsonargparse's parser.
        **settings: those of jsonargparse's parser.

    Attributes:
        sections: the classes, by the name before their fields.
        linked: fields that others set, which no user gives.
        classes: classes that a field may hold, by its full name, such as the callbacks.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.sections: dict[str, type] = {}
        self.linked: set[str] = set()
        self.classes: Mapping[str, tuple[type, ...]] = {}
        # abbreviated, an option would mean another one when one is added
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def add_class_arguments(
        self, class_type: type, nested_key: str | None = None, *args: Any, **settings: Any
    ) -> list[str]:
        """Add the fields of a class, and remember it."""
        if nested_key and "." not in nested_key:
            self.sections[nested_key] = class_type
        if nested_key == "trainer":
            self.add_argument("--trainer.help", action=TrainerHelp)
        added: list[str] = super().add_class_arguments(class_type, nested_key, *args, **settings)
        return added

    def link_arguments(self, source: Any, target: str, *args: Any, **settings: Any) -> None:
        """Have a field set by another one, and remember it."""
        self.linked.add(target)
        super().link_arguments(source, target, *args, **settings)

    @property
    def kinds(self) -> dict[str, str]:
        """What may be given for every field and option of the command, by its full name."""
        fields = [field for name, owner in self.sections.items() for field in fields_of(owner, name)]
        found = {field.name: field.kind for field in fields if field.name not in self.linked}
        return found | dict.fromkeys(self._general(), "")

    def instantiate(self, *args: Any, **settings: Any) -> Any:
        """Make the objects that the configuration names.

        Raises:
            ConfigError: for an error in the constructor of a class that is not ours; an error of ours comes as it is.
        """
        try:
            return super().instantiate(*args, **settings)
        except Exception as error:
            explained = explain_constructor(error)
            if explained is None:
                raise
            raise ConfigError(explained) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong as one line and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        speaker = getattr(ex, "subcommand_parser", None) or self
        command = speaker if isinstance(speaker, ShortParser) else self
        names = [each.__name__ for owners in self.classes.values() for each in owners]
        sys.stderr.write(f"error: {explain(message, command.kinds, names)}\n")
        sys.exit(2)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The page of ``--help``."""
        if not self.sections:
            return str(super().format_help(formatter))
        usage = f"{self.prog.replace(' [options]', '')} [--config FILE ...] [--KEY VALUE ...]"
        page = render(usage, self.description or "", self.sections, self._general(), self.linked)
        return f"{page}\n{render_classes(self.classes)}" if self.classes else page

    def comment_dumps(self) -> None:
        """Have a printed configuration say what its fields are; the parser itself stays as it is for all else."""
        parser: Any = self
        dump, texts = parser.dump, texts_of(self.sections, self.classes)
        parser.dump = lambda *args, **settings: comment(dump(*args, **settings), texts)

    def _general(self) -> list[str]:
        """Options of the command that are fields of no class."""
        words = {word.removeprefix("--") for action in self._actions for word in action.option_strings}
        return [name for name in GENERAL if name in words]
