"""``infogap ask IMAGE "question"``: plays one episode of a policy on a picture of the user's own, and shows it.

What is imported here is light, so that ``--help`` and most mistakes cost no time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infogap.arguments import CommandError, CommandParser, check_output

if TYPE_CHECKING:
    from infogap.ask.policies import FoundPolicy
    from infogap.data.sample import Sample
    from infogap.rollout import RolloutConfig

LIMITS: Final = {
    "max_turns": "most turns of the episode",
    "max_crops": "most crops of the episode",
    "max_turn_tokens": "most tokens that the policy writes in a turn",
    "max_episode_tokens": "most tokens that it writes in the episode",
}
"""Fields of `EpisodeLimits` that have a flag, and what it says of them."""

DESCRIPTION: Final = (
    "Play one episode of a policy on an image, and show it in the terminal and as a picture with the crops marked. "
    "Texts, crop sizes, limits and the view come from the config.yaml of the checkpoint's run if it is there, and "
    "flags win. A run that trained at selected views, which a lone image has not, is shown a quarter of the image's "
    "own visual tokens, at most 1024."
)


def main(words: Sequence[str]) -> None:
    """Run ``infogap ask``.

    Args:
        words: those after ``ask``.

    Raises:
        ValueError: if the image, the question, a policy or a path will not do.
    """
    started = time.perf_counter()
    chosen = _parser().parse_args(words)
    out = chosen.out or Path(f"{chosen.image.stem}.episode.png")
    _check(chosen, out)
    for flag, path in (("--out", out), ("--json", chosen.json)):
        if path is not None:
            check_output(flag, path, [("the image", chosen.image)])
    from infogap.ask.asked import read_sample

    sample = read_sample(chosen.image, chosen.question, chosen.options, chosen.answer)
    _answer(chosen, sample, out, started)


def _answer(chosen: argparse.Namespace, sample: Sample, out: Path, started: float) -> None:
    """Play, write, and show: whoever reads the output may stop before its end."""
    import transformers
    from rich.console import Console

    from infogap.ask.asked import write
    from infogap.ask.picture import draw, png
    from infogap.ask.playing import ask, find_device
    from infogap.ask.terminal import show, show_files

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device, found = find_device(chosen.device), _find(chosen)
    prepared = time.perf_counter() - started
    console, known = Console(), chosen.answer is not None
    with console.status("asking ...") if console.is_terminal else nullcontext():
        played = [
            ask(policy, rollout, sample, device, direct=chosen.direct, expected=known, seed=chosen.seed, number=number)
            for number, (policy, rollout) in enumerate(found)
        ]
    write(out, png(draw(played, sample.image)))
    if chosen.json is not None:
        write(chosen.json, "".join(each.line for each in played).encode("ascii"))
    show(console, sample, played)
    show_files(console, [path for path in (out, chosen.json) if path is not None], prepared)


def _find(chosen: argparse.Namespace) -> list[tuple[FoundPolicy, RolloutConfig]]:
    """The policies that are asked, and how each is played."""
    from infogap.ask.policies import find_policy
    from infogap.ask.settings import adjusted

    given = [name for name in (chosen.policy, chosen.checkpoint) if name is not None] or ["shipped"]
    names = given if chosen.compare is None else [*given, chosen.compare]
    found = [find_policy(name, chosen.base, chosen.dtype, chosen.config) for name in names]
    if chosen.base is not None and all(policy.checkpoint is None for policy in found):
        raise CommandError(f"--base names the model of a checkpoint, and {' and '.join(names)} is none: leave it out.")
    limits = {name: getattr(chosen, name) for name in LIMITS if getattr(chosen, name) is not None}
    tokens, temperature = (chosen.view_tokens, chosen.crop_tokens), chosen.temperature
    return [(policy, adjusted(policy.settings.rollout, *tokens, limits, temperature)) for policy in found]


def _parser() -> CommandParser:
    parser = CommandParser(prog="infogap ask", description=DESCRIPTION)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a JPEG, PNG or WEBP file")
    parser.add_argument("question", metavar="QUESTION", help="what to ask, in quotes")
    parser.add_argument("--options", nargs="+", default=[], metavar="TEXT", help="the options, in the order of letters")
    parser.add_argument("--answer", metavar="EXPECTED", help="the right answer, to be told whether the policy has it")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--policy", metavar="FOLDER", help="a model folder; default: the small policy that is shipped")
    which.add_argument("--checkpoint", metavar="CKPT|RUN", help="of `infogap fit`; a run stands for its newest one")
    parser.add_argument("--compare", metavar="POLICY", help="a second one: a folder, a checkpoint, a run, or `shipped`")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="the model that the checkpoint was trained from")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the config.yaml to play by, for both policies")
    parser.add_argument("--direct", action="store_true", help="ask without the tool: one turn, no crop")
    for name, meaning in (
        ("view_tokens", "most visual tokens of the view"),
        ("crop_tokens", "most visual tokens of a crop"),
        *LIMITS.items(),
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=meaning)
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default: 0, which is greedy")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of sampling; default: 0")
    parser.add_argument("--device", metavar="NAME", help="default: cuda if there is one, else cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the weights; default: the policy's own")
    parser.add_argument(
        "--out", type=Path, metavar="PNG", help="the picture; default: IMAGE's stem + .episode.png here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the episodes, each as a line of JSON")
    return parser


def _check(chosen: argparse.Namespace, out: Path) -> None:
    """Refuse what needs no file to be seen.

    Raises:
        CommandError: if a flag has no use, or a path is not of its kind.
    """
    if out.suffix.lower() != ".png":
        raise CommandError(f"--out {str(out)!r} is no PNG: give a path that ends in .png.")
    if chosen.json is not None and chosen.json.resolve() == out.resolve():
        raise CommandError(f"--json and the picture are both {str(out)!r}: give two paths.")
    if chosen.base is not None and chosen.checkpoint is None and chosen.compare is None:
        raise CommandError("--base names the model of a checkpoint, and there is none: give --checkpoint.")
