"""Boxes, frames and token budgets."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from infogap.geometry import (
    TOKEN_SIDE,
    Box,
    Frame,
    FramedBox,
    Size,
    check_nested,
    corner_l1,
    coverage,
    fit_to_budget,
    intersection_area,
    iou,
    visual_tokens,
)

IMAGE = Size(1000, 600)
NAN, INFINITY = float("nan"), float("inf")

sides = st.integers(1, 20_000)
sizes = st.builds(Size, sides, sides)
views = st.builds(lambda w, h: Size(w * TOKEN_SIDE, h * TOKEN_SIDE), st.integers(1, 128), st.integers(1, 128))


@st.composite
def boxes(draw: st.DrawFn, size: Size = IMAGE, margin: float = 0.0) -> Box:
    """A box whose corners lie at most `margin` outside an image of that size."""
    shares = st.floats(0.0, 1.0)
    (x1, x2), (y1, y2) = (
        sorted((draw(shares) * (side + 2 * margin) - margin, draw(shares) * (side + 2 * margin) - margin))
        for side in size
    )
    assume(x2 - x1 > 1e-3 and y2 - y1 > 1e-3)
    return Box(x1, y1, x2, y2)


class TestBox:
    def test_measures(self) -> None:
        box = Box(10, 20, 40, 100)
        assert (box.width, box.height, box.area) == (30, 80, 2400)
        assert box.as_tuple() == (10, 20, 40, 100)
        assert Box.whole(IMAGE).as_tuple() == (0, 0, 1000, 600)

    @pytest.mark.parametrize(
        "corners", [(5, 0, 5, 10), (6, 0, 5, 10), (0, 5, 10, 5), (0, 6, 10, 5), (9, 9, 1, 1), (0, 0, 1e-200, 1e-200)]
    )
    def test_empty(self, corners: tuple[float, float, float, float]) -> None:
        with pytest.raises(ValueError, match=r"The box \(.*\) is empty: give x1 < x2 and y1 < y2"):
            Box(*corners)

    @pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, 1e200, 10**400])
    @pytest.mark.parametrize("place", range(4))
    def test_not_finite(self, value: float, place: int) -> None:
        corners = [0.0, 0.0, 10.0, 10.0]
        corners[place] = value
        with pytest.raises(ValueError, match="not finite"):
            Box(*corners)

    def test_clamp(self) -> None:
        assert Box(-5, 10, 50, 700).clamp(IMAGE) == Box(0, 10, 50, 600)
        assert Box(10, 10, 50, 70).clamp(IMAGE) == Box(10, 10, 50, 70)

    @pytest.mark.parametrize("corners", [(-9, 0, 0, 9), (1000, 0, 1009, 9), (0, -9, 9, 0), (0, 600, 9, 609)])
    def test_clamp_outside(self, corners: tuple[float, float, float, float]) -> None:
        with pytest.raises(ValueError, match="lies outside the image of 1000x600 pixels"):
            Box(*corners).clamp(IMAGE)

    def test_expand_to(self) -> None:
        assert Box(100, 100, 110, 200).expand_to(28, IMAGE) == Box(91, 100, 119, 200)
        assert Box(0, 590, 10, 600).expand_to(28, IMAGE) == Box(0, 572, 28, 600)
        assert Box(5, 5, 6, 6).expand_to(28, Size(20, 100)) == Box(0, 0, 20, 28)
        assert Box(1, 1, 9, 9).expand_to(4, IMAGE) == Box(1, 1, 9, 9)

    def test_expand_to_loses_nothing_to_rounding(self) -> None:
        assert Box(13.9, 1, 16, 9).expand_to(2.1, Size(16, 16)).x2 == 16  # 13.9 + 2.1 rounds to less
        low, high = 8123.372526870966, 10906.808056965332  # (low + high - side) / 2 rounds to more than low
        grown = Box(low, 1, high, 9).expand_to(2783.4355300943666, Size(11190, 16))
        assert (grown.x1, grown.x2) == (low, 10906.808056965334)

    @given(size=sizes, min_side=st.floats(1.0, 300.0), data=st.data())
    def test_expand_to_stays_inside_and_contains(self, size: Size, min_side: float, data: st.DataObject) -> None:
        box = data.draw(boxes(size))
        grown = box.expand_to(min_side, size)
        assert Box.whole(size).contains(grown)
        assert grown.contains(box)
        for span, limit in ((grown.width, size.width), (grown.height, size.height)):
            assert span >= min(min_side, limit) - 1e-9

    @given(box=boxes(margin=400.0))
    def test_expand_to_of_a_box_that_sticks_out(self, box: Box) -> None:
        assume(intersection_area(box, Box.whole(IMAGE)) > 0)
        grown = box.expand_to(28, IMAGE)
        assert Box.whole(IMAGE).contains(grown)
        assert grown.contains(box.clamp(IMAGE))

    def test_contains(self) -> None:
        outer = Box(10, 10, 20, 20)
        assert outer.contains(outer)
        for sticking_out in (Box(9, 10, 20, 20), Box(10, 9, 20, 20), Box(10, 10, 21, 20), Box(10, 10, 20, 21)):
            assert not outer.contains(sticking_out)
            assert outer.contains(sticking_out, tolerance=1.0)
            assert not outer.contains(sticking_out, tolerance=0.9)


class TestMeasures:
    def test_by_hand(self) -> None:
        a, b = Box(0, 0, 10, 10), Box(5, 0, 25, 10)
        assert intersection_area(a, b) == 50
        assert iou(a, b) == 50 / 250
        assert coverage(of=a, by=b) == 0.5
        assert coverage(of=b, by=a) == 0.25
        assert intersection_area(a, Box(10, 0, 20, 10)) == 0
        assert iou(a, Box(20, 20, 30, 30)) == 0  # both overlaps negative: their product must not count

    def test_corner_l1(self) -> None:
        a, b = Box(100, 60, 300, 300), Box(200, 120, 350, 240)
        assert corner_l1(a, b, IMAGE) == pytest.approx((100 / 1000 + 60 / 600 + 50 / 1000 + 60 / 600) / 4)

    @given(a=boxes(), b=boxes())
    def test_bounds_and_symmetry(self, a: Box, b: Box) -> None:
        assert iou(a, b) == iou(b, a)
        assert 0 <= iou(a, b) <= min(coverage(a, b), coverage(b, a)) + 1e-12 <= 1 + 1e-12
        assert corner_l1(a, b, IMAGE) == corner_l1(b, a, IMAGE)
        assert 0 <= corner_l1(a, b, IMAGE) <= 1
        assert iou(a, a) == coverage(a, a) == 1
        assert corner_l1(a, a, IMAGE) == 0

    @given(inner=boxes(), min_side=st.floats(1.0, 500.0))
    def test_coverage_by_a_larger_box_is_one(self, inner: Box, min_side: float) -> None:
        outer = inner.expand_to(min_side, IMAGE)
        assert coverage(of=inner, by=outer) == 1
        assert iou(inner, outer) == pytest.approx(inner.area / outer.area)


class TestNested:
    def test_nested(self) -> None:
        check_nested(())
        check_nested((Box(0, 0, 1, 1),))
        check_nested((Box(10, 10, 20, 20), Box(10.5, 9, 19.5, 30), Box(0, 0, 50, 50)))

    def test_wrong_order_names_the_pair(self) -> None:
        chain = (Box(10, 10, 20, 20), Box(5, 5, 30, 30), Box(10, 10, 20, 20))
        with pytest.raises(ValueError, match=r"Box 1 \(5, 5, 30, 30\) is not inside box 2 \(10, 10, 20, 20\)"):
            check_nested(chain)

    @given(box=boxes(), first=st.floats(1.0, 500.0), second=st.floats(1.0, 500.0))
    def test_grown_boxes_are_nested(self, box: Box, first: float, second: float) -> None:
        middle = box.expand_to(first, IMAGE)
        outer = middle.expand_to(second, IMAGE)
        check_nested((box, middle, outer))
        if outer.width > box.width + 2.1 or outer.height > box.height + 2.1:
            with pytest.raises(ValueError, match=r"Box 0 .* is not inside box 1"):
                check_nested((outer, box))


class TestFrames:
    @given(frame=st.sampled_from(list(Frame)), view=views, original=sizes, data=st.data())
    def test_round_trip(self, frame: Frame, view: Size, original: Size, data: st.DataObject) -> None:
        box = data.draw(boxes(original))
        framed = FramedBox.from_original(box, frame, view, original)
        back = framed.to_original(view, original)
        assert back.as_tuple() == pytest.approx(box.as_tuple(), rel=1e-9, abs=1e-9)

    @given(view=views, original=sizes, data=st.data())
    def test_frames_agree(self, view: Size, original: Size, data: st.DataObject) -> None:
        box = data.draw(boxes(original))
        pixels, relative, relative_1000 = (FramedBox.from_original(box, frame, view, original) for frame in Frame)
        assert (pixels.x1, pixels.x2) == pytest.approx((relative.x1 * view.width, relative.x2 * view.width))
        assert (pixels.y1, pixels.y2) == pytest.approx((relative.y1 * view.height, relative.y2 * view.height))
        assert (relative_1000.x1, relative_1000.y2) == pytest.approx((relative.x1 * 1000, relative.y2 * 1000))

    def test_view_pixels_are_mapped_per_axis(self) -> None:
        """A view's sides are whole tokens, so its scales differ: one scale for both axes misplaces every box."""
        original = Size(1000, 610)
        view = fit_to_budget(original, 64)
        assert view == Size(280, 168)  # scales 1000 / 280 = 3.571 and 610 / 168 = 3.631
        box = FramedBox(28, 28, 140, 140, Frame.VIEW_PIXELS).to_original(view, original)
        assert box.as_tuple() == pytest.approx((100, 28 * 610 / 168, 500, 140 * 610 / 168))
        assert box.height - box.width > 6  # square in the view, not in the original

    @pytest.mark.parametrize(
        ("frame", "corners"),
        [
            (Frame.VIEW_PIXELS, (56, 28, 112, 84)),
            (Frame.RELATIVE, (0.25, 0.25, 0.5, 0.75)),
            (Frame.RELATIVE_1000, (250, 250, 500, 750)),
        ],
    )
    def test_by_hand(self, frame: Frame, corners: tuple[float, float, float, float]) -> None:
        box = FramedBox(*corners, frame).to_original(view=Size(224, 112), original=Size(800, 1600))
        assert box == Box(200, 400, 400, 1200)

    def test_is_not_clamped(self) -> None:
        box = FramedBox(-0.5, 0.5, 0.5, 1.5, Frame.RELATIVE).to_original(Size(28, 28), IMAGE)
        assert box == Box(-500, 300, 500, 900)

    @pytest.mark.parametrize("frame", list(Frame))
    def test_what_a_policy_may_write(self, frame: Frame) -> None:
        with pytest.raises(ValueError, match=r"The box \(9, 1, 3, 4\) is empty"):
            FramedBox(9, 1, 3, 4, frame).to_original(Size(28, 28), IMAGE)
        for value in (NAN, INFINITY, 10**400):
            with pytest.raises(ValueError, match=r"The box \(1, not finite, 3, 4\) has a coordinate that is not"):
                FramedBox(1, value, 3, 4, frame).to_original(Size(28, 28), IMAGE)


class TestFitToBudget:
    @given(size=sizes, max_tokens=st.integers(1, 16_384), min_tokens=st.integers(1, 16_384))
    def test_bounds_hold(self, size: Size, max_tokens: int, min_tokens: int) -> None:
        fitted = fit_to_budget(size, max_tokens, min_tokens)
        assert fitted.width % TOKEN_SIDE == fitted.height % TOKEN_SIDE == 0
        assert min(fitted) >= TOKEN_SIDE
        assert min(min_tokens, max_tokens) <= visual_tokens(fitted) <= max_tokens

    @given(size=sizes, max_tokens=st.integers(1, 16_384), slack=st.integers(0, 3))
    def test_narrow_bounds_hold(self, size: Size, max_tokens: int, slack: int) -> None:
        fewest = max(max_tokens - slack, 1)
        assert fewest <= visual_tokens(fit_to_budget(size, max_tokens, fewest)) <= max_tokens

    @given(size=sizes, max_tokens=st.integers(1, 16_384))
    def test_fitting_twice_changes_nothing(self, size: Size, max_tokens: int) -> None:
        fitted = fit_to_budget(size, max_tokens)
        assert fit_to_budget(fitted, max_tokens) == fitted

    @given(size=sizes, max_tokens=st.integers(1, 16_384))
    def test_turning_the_image_turns_the_result(self, size: Size, max_tokens: int) -> None:
        assume(size.width != size.height)
        width, height = fit_to_budget(size, max_tokens)
        assert fit_to_budget(Size(size.height, size.width), max_tokens) == (height, width)

    @given(width=st.integers(300, 20_000), height=st.integers(300, 20_000), max_tokens=st.integers(64, 16_384))
    def test_rounds_as_qwen_does(self, width: int, height: int, max_tokens: int) -> None:
        """The published rule in floating point, where it stays within its bounds."""
        assume(max(width, height) < 10 * min(width, height))
        rounded = round(width / 28) * round(height / 28)
        assume(rounded >= 4)
        scale = math.sqrt(width * height / (max_tokens * 28 * 28)) if rounded > max_tokens else 0.0
        expected = [math.floor(side / scale / 28) if scale else round(side / 28) for side in (width, height)]
        got = [side // 28 for side in fit_to_budget(Size(width, height), max_tokens)]
        assert all(abs(a - b) <= (1 if scale else 0) for a, b in zip(got, expected, strict=True))
        assert got[0] * got[1] >= expected[0] * expected[1]  # whole numbers lose nothing to rounding

    @pytest.mark.parametrize(
        ("size", "max_tokens", "min_tokens", "expected"),
        [
            (Size(280, 140), 50, 4, Size(280, 140)),  # fits: untouched
            (Size(293, 155), 99, 4, Size(280, 168)),  # fits: rounded to the nearest
            (Size(7680, 4320), 1024, 4, Size(1176, 672)),  # floor(sqrt(16 / 9 * 1024)) by floor(sqrt(9 / 16 * 1024))
            (Size(28, 28), 1024, 4, Size(56, 56)),
            (Size(30, 50), 1024, 64, Size(196, 308)),  # ceil(sqrt(3 / 5 * 64)) by ceil(sqrt(5 / 3 * 64))
            (Size(20_000, 1), 100, 4, Size(2800, 28)),  # Qwen's rule gives 1,414 tokens
            (Size(1, 20_000), 1, 4, Size(28, 28)),
            (Size(100, 100), 8, 5, Size(56, 84)),  # Qwen's rule gives 9 tokens
            (Size(1000, 500), 2, 4, Size(56, 28)),
        ],
    )
    def test_by_hand(self, size: Size, max_tokens: int, min_tokens: int, expected: Size) -> None:
        assert fit_to_budget(size, max_tokens, min_tokens) == expected

    @pytest.mark.parametrize(("size", "bounds"), [(Size(0, 9), (4, 4)), (Size(9, 9), (0, 4)), (Size(9, 9), (4, 0))])
    def test_below_one(self, size: Size, bounds: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="sides and bounds must be at least 1"):
            fit_to_budget(size, *bounds)

    def test_visual_tokens(self) -> None:
        assert visual_tokens(Size(280, 168)) == 60
