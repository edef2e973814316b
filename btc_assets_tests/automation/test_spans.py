from __future__ import annotations

import itertools
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.automation.spans import Span, spans

days = st.lists(st.dates(date(2020, 1, 1), date(2020, 3, 1)), max_size=40)


@given(days)
def test_spans_contain_exactly_the_given_days(selected: list[date]) -> None:
    assert [day for span in spans(selected) for day in span.days] == sorted(set(selected))


@given(days)
def test_two_spans_are_never_consecutive(selected: list[date]) -> None:
    result = spans(selected)
    assert all(b.first - a.last > timedelta(days=1) for a, b in itertools.pairwise(result))


def test_a_span_has_run_tags_of_its_range() -> None:
    assert Span(date(2024, 1, 1), date(2024, 1, 3)).tags == {
        "dagster/asset_partition_range_start": "2024-01-01",
        "dagster/asset_partition_range_end": "2024-01-03",
    }


def test_a_span_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot end"):
        Span(date(2024, 1, 2), date(2024, 1, 1))
