"""The words every domain shares: horizons, quantiles, roles, kinds of verdict."""

PRIMARY = 60
"""The primary horizon, minutes: the one that verdicts, alerts and drift are about."""
HORIZONS = (PRIMARY, 240, 1440)
"""Forecast horizons of every model, minutes."""
SUB_HOUR = 30
"""The horizon, minutes, that needs bars inside the hour; a model has it where its window holds enough of them."""
EVERY_HORIZON = (SUB_HOUR, *HORIZONS)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the log return that a model forecasts."""
QUANTILE_NAMES = tuple(f"q{round(100 * q):02d}" for q in QUANTILES)
"""Their column names."""
CHAMPION, NEWEST, CHALLENGER = "champion", "newest", "challenger"
ROLES = (CHAMPION, NEWEST, CHALLENGER)
"""Whose forecast a row is: the gated champion's, the newest cutoff's own model, or the challenger's in shadow."""
REPORTED_ROLES = (CHAMPION, NEWEST)
"""Roles with a forecast for every hour, whose figures are reported; the challenger is compared with the champion."""
HELD_ROLES = (CHAMPION, CHALLENGER)
"""Roles a model holds by decision, from one hour until the next decision."""
MEMBER_STATES = ("trained", "short_window", "failed", "absent")
"""What became of a member of the recipe: trained, trained on less than its window, failed, or nothing to read."""
VERDICT_KINDS = ("first", "refresh", "changed_recipe")
"""What a candidate is beside the champion: the first model, the same recipe on a newer window, or another recipe."""
HISTORY_EVENTS = ("promoted", "rolled_back", "withdrawn", "entered_shadow", "left_shadow")
"""What changes who holds a role."""
REGIMES = ("accumulation", "uptrend", "distribution", "downtrend")
"""States of the price, see `learning.regimes`."""


def hours_spanned(horizon: int) -> int:
    """Return how many hourly rows have a window of `horizon` minutes in common, at least 1.

    Forecasts are made every hour, so this is also for how many hours one is held.
    """
    return max(1, -(-horizon // 60))


def display(horizon: int) -> str:
    """Return a horizon of whole minutes as text: "60 min", "4 h", "24 h"."""
    return f"{horizon // 60} h" if horizon > 60 and horizon % 60 == 0 else f"{horizon} min"
