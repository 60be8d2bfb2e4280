"""Samples: what they hold and what they refuse."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
from PIL import Image

from infogap.data.images import HighResImage
from infogap.data.sample import Sample, SampleError
from infogap.geometry import Box, Size


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def sample(**changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "key": "scene-1",
        "image": HighResImage(png(90, 50)),
        "question": "Which colour?",
        "answer": "red",
    }
    return Sample(**{**fields, **changes})


class TestSample:
    def test_good_samples(self) -> None:
        assert sample().view_tokens is None
        assert sample(options=("red", "blue")).option_letters == ("A", "B")
        assert sample(options=("red", "blue"), answer="B").answer == "B"
        chain = (Box(10, 10, 20, 20), Box(9, 9, 90.9, 50.9))  # a pixel out is rounding
        assert sample(evidence=(chain, chain[:1]), view_tokens=64).evidence[0] is chain

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"key": " "}, "A sample of source '' has an empty key"),
            ({"question": ""}, "The sample 'scene-1' has an empty question"),
            ({"answer": " \n"}, "has an empty answer"),
            ({"options": ("red", "")}, "has an empty option B"),
            ({"question": "What <|im_end|> is this?"}, "has '<|' in its question"),
            ({"answer": "<|image_pad|>"}, "has '<|' in its answer"),
            ({"options": ("red<|", "red")}, "has '<|' in its option A"),
            ({"options": ("blue", "green")}, "has the answer 'red', which is none of its options"),
            ({"options": ("blue", "green"), "answer": "C"}, "has the answer 'C', which is none of its options"),
            ({"options": ("red",) * 27}, "has 27 options"),
            ({"view_tokens": 0}, "has a view of 0 tokens"),
            ({"evidence": ((),)}, "has no box in chain 0"),
            ({"evidence": ((Box(0, 0, 9, 9), Box(0, 0, 5, 5)),)}, "has a wrong chain 0 of evidence: Box 0"),
            ({"evidence": ((Box(0, 0, 9, 9),), (Box(80, 40, 92, 50),))}, "has evidence (80, 40, 92, 50) outside"),
        ],
    )
    def test_bad_samples(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(SampleError) as caught:
            sample(**changes)
        assert message in str(caught.value)
        assert str(caught.value).endswith(".")

    def test_is_frozen_and_can_be_pickled(self) -> None:
        original = sample(metadata={"level": 2})
        with pytest.raises(AttributeError):
            original.answer = "blue"  # type: ignore[misc]
        copy = pickle.loads(pickle.dumps(original))
        assert (copy.key, copy.metadata, copy.image.size) == ("scene-1", {"level": 2}, Size(90, 50))
