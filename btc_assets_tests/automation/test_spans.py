from __future__ import annotations

import itertools
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.automation.spans import Span, spans

days = st.lists(st.dates(date(2020, 1, 1), date(2020, 3, 1)), max_size=40)


@given(days)
def test_spans_hold_exactly_the_days_given(chosen: list[date]) -> None:
    assert [day for span in spans(chosen) for day in span.days] == sorted(set(chosen))


@given(days)
def test_no_two_spans_could_be_one(chosen: list[date]) -> None:
    found = spans(chosen)
    assert all(b.first - a.last > timedelta(days=1) for a, b in itertools.pairwise(found))


def test_a_span_names_its_range_in_run_tags() -> None:
    assert Span(date(2024, 1, 1), date(2024, 1, 3)).tags == {
        "dagster/asset_partition_range_start": "2024-01-01",
        "dagster/asset_partition_range_end": "2024-01-03",
    }


def test_a_span_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot end"):
        Span(date(2024, 1, 2), date(2024, 1, 1))
