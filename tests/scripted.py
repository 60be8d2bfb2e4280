"""Policies whose answers are known: a script instead of a network, played by the evaluation's own engine."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from PIL import Image, ImageDraw

from infogap.data.images import HighResImage
from infogap.data.sample import Sample
from infogap.episode.matching import match_answer
from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.evaluation.arms import Case, PlayConfig
from infogap.evaluation.engine import ArmPlayer, Outcome
from infogap.evaluation.measure import to_prediction
from infogap.evaluation.prediction import Prediction
from infogap.evaluation.question import Question, Reading
from infogap.geometry import Box, Frame, FramedBox
from infogap.policy.sampler import SampledTurn

PROTOCOL = Protocol(ProtocolConfig(frame=Frame.RELATIVE_1000))
SIDE, SPOT = 560, 56
CODES = [(25 * digit, 255 - 25 * digit, 128) for digit in range(10)]
"""Colour of the spot that holds a digit."""


@dataclass(frozen=True)
class Pixels:
    """An image where a policy would have patches."""

    image: Image.Image

    @property
    def tokens(self) -> int:
        return self.image.width * self.image.height // 28**2


@dataclass(frozen=True)
class Text:
    """A chunk that is still text."""

    text: str
    images: tuple[Pixels, ...] = ()
    sampled: bool = False

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(self.text.encode())


@dataclass(frozen=True)
class Played:
    prompt: Text
    episodes: list[list[Text]]


Script = Callable[[str, Sequence[Image.Image]], str]
"""Writes a turn: from the prompt and all images that were shown, the view first if there is one."""


class ScriptedPolicy:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.patchifier = Pixels

    def eval(self) -> None:
        pass

    def chunk(self, text: str, images: Sequence[Pixels] = ()) -> Text:
        return Text(text, tuple(images))


class ScriptedSampler:
    """Stands in for the sampler: the same calls of the driver, in another order."""

    def __init__(self, policy: ScriptedPolicy, *_: object) -> None:
        self.policy = policy

    def run(
        self,
        prompts: Sequence[Text],
        generators: Sequence[Sequence[object]],
        on_turn: Callable[[int, SampledTurn], Mapping[int, Text]],
        leaders: Mapping[int, int],
    ) -> list[Played]:
        sizes = [len(members) for members in generators]
        of_episode = [prompt for prompt, size in zip(prompts, sizes, strict=True) for _ in range(size)]
        chunks: list[list[Text]] = [[] for _ in of_episode]
        following, going = dict(leaders), [e for e in range(len(of_episode)) if e not in leaders]
        while going:
            episode = going.pop()
            seen = [pixels.image for chunk in (of_episode[episode], *chunks[episode]) for pixels in chunk.images]
            text = self.policy.script(of_episode[episode].text, seen)
            chunks[episode].append(Text(text, sampled=True))
            turn = SampledTurn(tuple(text.encode()), text, True, False)
            written = chunks[episode]
            for number, back in on_turn(episode, turn).items():
                following.pop(number, None)
                chunks[number] = [*written, back]
                going.append(number)
        for follower, leader in following.items():
            chunks[follower] = chunks[leader]
        episodes = iter(chunks)
        return [Played(p, [next(episodes) for _ in range(size)]) for p, size in zip(prompts, sizes, strict=True)]


def spot(number: int) -> Box:
    """Where the evidence of a scene lies."""
    x, y = 28 * (number * 7 % 18), 28 * (number * 11 % 18)
    return Box(x, y, x + SPOT, y + SPOT)


def scene(number: int) -> Sample:
    """A grey image with a spot whose colour is a digit; the answer is that digit, and the question has a number."""
    image = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    box, digit = spot(number), number * 3 % 10
    ImageDraw.Draw(image).rectangle((box.x1, box.y1, box.x2 - 1, box.y2 - 1), fill=CODES[digit])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Sample(f"scene{number}", HighResImage(buffer.getvalue()), f"Scene {number}?", str(digit), evidence=((box,),))


def scenes(count: int) -> list[Case]:
    samples = [scene(number) for number in range(count)]
    return [
        Case(Question(sample, "scenes", sample.key, sample.question), samples[number - 1].image)
        for number, sample in enumerate(samples)
    ]


def number_in(prompt: str) -> int:
    found = re.search(r"Scene (\d+)\?", prompt)
    assert found is not None
    return int(found[1])


def call(box: Box) -> str:
    whole = scene(0).image.size
    return PROTOCOL.call_text(FramedBox.from_original(box, Frame.RELATIVE_1000, whole, whole))


def read_digit(image: Image.Image) -> int | None:
    """The digit whose colour fills the middle of an image."""
    middle = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(middle, tuple)
    distances = [max(abs(a - b) for a, b in zip(code, middle, strict=True)) for code in CODES]
    return min(range(10), key=distances.__getitem__) if min(distances) < 9 else None


def answer(digit: object) -> str:
    return PROTOCOL.answer_text(str(digit))


def has_tool(prompt: str) -> bool:
    return "<tools>" in prompt


def play(script: Script, config: PlayConfig, cases: Sequence[Case], patch: pytest.MonkeyPatch) -> list[Outcome]:
    patch.setattr("infogap.evaluation.engine.Sampler", ScriptedSampler)
    return ArmPlayer(ScriptedPolicy(script), PROTOCOL, config).play(cases).outcomes  # type: ignore[arg-type]


def predictions(outcomes: Sequence[Outcome]) -> list[Prediction]:
    """Predictions, the answers compared as in training."""
    found = []
    for outcome in outcomes:
        sample = outcome.case.question.sample
        right = match_answer(outcome.episode.answer, sample.answer, sample.options)
        found.append(to_prediction(outcome, Reading(right, outcome.episode.answer or "", "text")))
    return found
