"""Horizons as text and as numbers of hourly rows."""

from __future__ import annotations

import pytest

from btc_assets.vocabulary import display, hours_spanned


@pytest.mark.parametrize(
    ("horizon", "text", "hours"),
    [(30, "30 min", 1), (60, "60 min", 1), (90, "90 min", 2), (240, "4 h", 4), (1440, "24 h", 24)],
)
def test_a_horizon_is_shown_in_its_usual_unit_and_spans_whole_hours(horizon: int, text: str, hours: int) -> None:
    assert (display(horizon), hours_spanned(horizon)) == (text, hours)
