"""Formats of numbers for people."""

import math

import pytest

from app.reporting.number_format import duration, lap_share, lap_time, percent, plus_minus, significant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(32.1, "0:32.100"), (24.6449, "0:24.645"), (59.9996, "1:00.000"), (125.05, "2:05.050"), (None, "-")],
)
def test_lap_time_has_minutes_and_milliseconds(seconds, text):
    assert lap_time(seconds) == text


def test_spread_of_a_lap_time_is_in_seconds_and_that_of_one_lap_is_left_out():
    assert [lap_time(24.665, std) for std in (0.0673, 0.0, None)] == ["0:24.665 ± 0.07 s", "0:24.665", "0:24.665"]


def test_lap_share_has_two_decimals():
    assert [lap_share(1.0, 0.0), lap_share(0.456), lap_share(None)] == ["1.00 ± 0.00", "0.46", "-"]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.97, "97 %"), (1, "100 %"), (0, "0 %"), (0.996, "> 99 %"), (0.99999, "> 99 %"), (0.004, "< 1 %"),
     (0.0051, "1 %"), (0.9949, "99 %"), (1.25, "125 %"), (math.nan, "-")],
)  # fmt: skip
def test_share_is_whole_only_if_all_of_it_is_there(share, text):
    assert percent(share) == text


def test_durations_have_hours_only_where_there_are_some():
    assert [duration(s) for s in (0, 59.6, 3725, -1, math.nan, None)] == ["0:00", "1:00", "1:02:05", "0:00", "-", "-"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (1000, "1,000"), (66.12, "66.1"), (1.234, "1.23"), (0.1234, "0.123"), (0.001234, "0.00123"),
     (9.999, "10.0"), (-0.5, "-0.500"), (0, "0"), (1.234e-7, "1.23e-07"), (math.inf, "-"), (None, "-")],
)  # fmt: skip
def test_figures_keep_their_significant_digits(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [(500.5419, 0.2937, "500.5 ± 0.3"), (22.7369, 0.6839, "22.74 ± 0.68"), (1.0, 0.0, "1.000 ± 0.000"),
     (0.04547, 0.00137, "0.0455 ± 0.0014"), (-1234.5, 456.7, "-1,234 ± 457"), (0.0, 12.3, "0 ± 12"),
     (0.0, 0.0, "0 ± 0"), (1.234, None, "1.23"), (None, 0.1, "-")],
)  # fmt: skip
def test_mean_and_deviation_have_the_same_decimals(mean, std, text):
    assert plus_minus(mean, std) == text
