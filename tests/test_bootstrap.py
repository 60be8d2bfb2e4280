from __future__ import annotations

import math

import numpy as np
import pytest
from predictions import answers, predict, sheet_of, sheets_of

from infogap.evaluation.bootstrap import Bootstrap, Estimate
from infogap.evaluation.sheet import Sheet


def width(estimate: Estimate) -> float:
    low, high = estimate.interval
    return high - low


def ratio(bootstrap: Bootstrap, numerator: list[float], denominator: list[float], clusters: list[str]) -> Estimate:
    return bootstrap.ratio(np.array(numerator), np.array(denominator), bootstrap.places(clusters))


def test_a_ratio_is_the_sum_over_the_sum() -> None:
    estimate = ratio(Bootstrap("abc"), [1, 2, 3], [2, 0, 4], ["a", "b", "c"])
    assert estimate.value == 1.0
    assert estimate.count == 2


def test_a_draw_of_two_clusters_holds_one_twice_or_both_once() -> None:
    bootstrap = Bootstrap("ab", draws=4000)
    estimate = ratio(bootstrap, [0, 1], [1, 1], ["a", "b"])
    values, counts = np.unique(estimate.draws, return_counts=True)
    assert list(values) == [0, 0.5, 1]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_the_interval_of_a_mean_of_many_rows_is_the_normal_one() -> None:
    rows = answers("own", "1110" * 100)
    low, high = sheet_of(rows, draws=4000).accuracy.interval
    reach = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((0.75 - reach, 0.75 + reach), abs=0.005)


def test_intervals_of_clustered_data_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        chance = random.beta(2, 1, size=60)  # of each image, the truth being 2/3; four questions about each
        right = random.random((60, 4)) < chance[:, None]
        rows = [
            predict(f"{image}-{n}", bool(right[image, n]), cluster=str(image)) for image in range(60) for n in range(4)
        ]
        low, high = sheet_of(rows, draws=400).accuracy.interval
        held += low <= 2 / 3 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_rows_that_repeat_a_cluster_do_not_narrow_the_interval() -> None:
    once = answers("own", "110" * 20)
    four_times = [
        predict(f"{row.key}-{variant}", row.correct, cluster=row.cluster) for row in once for variant in range(4)
    ]
    as_if_independent = [predict(row.key, row.correct) for row in four_times]
    assert sheet_of(four_times).accuracy.interval == sheet_of(once).accuracy.interval
    assert width(sheet_of(four_times).accuracy) == pytest.approx(
        2 * width(sheet_of(as_if_independent).accuracy), rel=0.2
    )


def test_pairing_narrows_a_difference() -> None:
    own, none = answers("own", "1101" * 25), answers("no_tool", "1100" * 25)
    paired = sheets_of(own + none)
    paired_difference = paired["own"].accuracy - paired["no_tool"].accuracy
    # as if the second arm had been run on other images
    others = [predict(f"other{n}", row.correct, "no_tool") for n, row in enumerate(none)]
    apart = sheets_of(own + others)
    apart_difference = apart["own"].accuracy - apart["no_tool"].accuracy
    assert paired_difference.value == apart_difference.value == 0.25
    assert width(paired_difference) < 0.75 * width(apart_difference)


def test_two_arms_with_the_same_answers_differ_by_nothing_in_every_draw() -> None:
    sheets = sheets_of(answers("own", "1101101") + answers("noise", "1101101"))
    difference = sheets["own"].accuracy - sheets["noise"].accuracy
    assert not difference.draws.any()
    assert difference.interval == (0, 0)


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [predict(f"row{n}", n % 3 > 0, cluster=str(n % 5), seconds=float(n * n % 7)) for n in range(20)]
    forwards, backwards = sheet_of(rows), sheet_of(rows[::-1])
    assert np.array_equal(forwards.accuracy.draws, backwards.accuracy.draws)
    quantiles = [sheet.quantile(lambda p: p.seconds, 0.9).draws for sheet in (forwards, backwards)]
    assert np.array_equal(*quantiles)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_a_quantile_is_that_of_numpy(share: float, count: int) -> None:
    values = np.random.default_rng(count).normal(size=count).round(1)  # with ties
    bootstrap = Bootstrap([str(n) for n in range(count)], draws=50)
    places = bootstrap.places([str(n) for n in range(count)])
    estimate = bootstrap.quantile(values, places, share)
    assert estimate.value == np.quantile(values, share, method="inverted_cdf")
    repeated = [np.repeat(values[np.argsort(places)], weights.astype(int)) for weights in bootstrap.weights]
    expected = [np.quantile(drawn, share, method="inverted_cdf") for drawn in repeated]
    assert list(estimate.draws) == expected


def test_a_quantile_is_not_moved_by_rounding() -> None:
    assert 0.55 * 100 > 55  # in floating point
    names = [str(n) for n in range(100)]
    bootstrap = Bootstrap(names, draws=2)
    assert bootstrap.quantile(np.arange(1.0, 101.0), bootstrap.places(names), 0.55).value == 55


def test_draws_repeat_and_depend_on_the_seed() -> None:
    names = [str(n) for n in range(9)]
    first, again, other = Bootstrap(names), Bootstrap(names), Bootstrap(names, seed=1)
    assert np.array_equal(first.weights, again.weights)
    assert not np.array_equal(first.weights, other.weights)
    assert (first.weights.sum(axis=1) == 9).all()


def test_arithmetic_goes_draw_by_draw() -> None:
    one, two = Estimate(3.0, np.array([1.0, 2.0]), 5), Estimate(2.0, np.array([4.0, 1.0]), 3)
    for combined, value, draws in (
        (one + two, 5, [5, 3]),
        (one - two, 1, [-3, 1]),
        (one * two, 6, [4, 2]),
        (one / two, 1.5, [0.25, 2]),
    ):
        assert (combined.value, list(combined.draws), combined.count) == (value, draws, 3)
    assert ((one - 1.0).value, (one - 1.0).count) == (2.0, 5)
    assert list((one - two).at_least(0.0).draws) == [0, 1]


def test_a_denominator_of_zero_gives_nan_and_its_draws_do_not_count() -> None:
    zero = Estimate(0.0, np.array([0.0, 0.5, 0.5]), 2)
    one = Estimate(1.0, np.array([1.0, 1.0, 1.0]), 2)
    assert math.isnan((one / zero).value)
    assert (one / zero).interval == (2, 2)
    assert math.isnan((zero / zero).value)
    assert math.isnan((zero / zero).at_least(0.0).value)


def test_no_rows_give_nan() -> None:
    sheet = Sheet([], Bootstrap([]))
    for estimate in (sheet.accuracy, sheet.quantile(lambda p: p.seconds, 0.5)):
        assert math.isnan(estimate.value)
        assert all(math.isnan(end) for end in estimate.interval)
        assert estimate.count == 0


def test_one_row_or_one_cluster_has_a_number_but_no_interval() -> None:
    one_row = sheet_of([predict("a", True)])
    one_cluster = sheet_of([predict(key, key == "a", cluster="image", seconds=2.0) for key in "ab"])
    assert (one_row.accuracy.value, one_cluster.accuracy.value) == (1.0, 0.5)
    for estimate in (one_row.accuracy, one_cluster.accuracy, one_cluster.quantile(lambda p: p.seconds, 0.5)):
        assert all(math.isnan(end) for end in estimate.interval)


def test_a_category_in_one_cluster_of_many_has_no_interval() -> None:
    rows = [predict("a", True, category="rare"), predict("b"), predict("c", False)]
    rare = sheet_of(rows).where(lambda p: p.category == "rare").accuracy
    assert rare.value == 1.0
    assert all(math.isnan(end) for end in rare.interval)


def test_an_unknown_cluster_is_named() -> None:
    with pytest.raises(ValueError, match="'c' is not among the 2"):
        Bootstrap("ab").places(["a", "c"])
