"""Comparison of model families over a period."""

import sys
from datetime import date, timedelta

import polars as pl

from btc_assets.clock import midnight
from btc_assets.features.catalog import FEATURE_SETS, WARMUP_DAYS
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.features.labels import compute_labels
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.lake import Lake
from btc_assets.learning.comparison import (
    ComparisonError,
    Period,
    as_markdown,
    best_beats_coin,
    compare_families,
    costs,
    walk,
)
from btc_assets.learning.families.registry import FamilyError, family
from btc_assets.learning.folds import NotEnoughHistoryError
from btc_assets.market.bars import clean
from btc_assets.market.sources.answer import wall_clock
from btc_assets.market.sources.files import FileSource
from btc_assets.market.tables import PRICES
from btc_assets.settings import Settings
from btc_assets.transport import SourceError


def compare(
    config: Settings,
    names: list[str],
    start: date,
    end: date,
    *,
    every_days: int,
    window_days: int,
    horizon: int,
    files: str | None,
    again: bool,
) -> int:
    """Compare families, print the table, and store it as Markdown, CSV and Parquet.

    Args:
        config: the settings of the deployment: feature set, seed and data folder.
        names: names or places of the families.
        start: first cutoff.
        end: last day to forecast.
        every_days: days from one cutoff to the next.
        window_days: days of training before each cutoff.
        horizon: minutes ahead.
        files: path or glob of files of bars; None: the tables of the lake.
        again: compute again what is stored.

    Returns:
        The exit status: 0 on success, 2 if families or data cannot be used.
    """
    try:
        if duplicated := [name for name in names if names.count(name) > 1]:
            raise FamilyError(f"--families names {duplicated[0]} twice")
        families = {name: family(name) for name in names}
        if start > end or every_days < 1 or window_days < 1:
            raise ComparisonError(
                f"expected --from on or before --to, and --every and --window-days of at least 1, got {start}, {end}, "
                f"{every_days} and {window_days}"
            )
        period = Period(start, end, every_days, window_days, horizon, config.seed)
        features, labels, closes = _from_files(files, period) if files else _from_lake(config, period)
        forecasts, folder = walk(
            families,
            features,
            labels,
            period,
            config.data_dir / "comparisons",
            feature_set=FEATURE_SETS[config.feature_set],
            again=again,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
        rows = compare_families(forecasts, closes, cutoff=period.end, seed=config.seed)
    except (FamilyError, ComparisonError, NotEnoughHistoryError, SourceError) as error:
        print(error, file=sys.stderr)
        return 2
    text = as_markdown(rows, costs(forecasts), best_beats_coin(forecasts, seed=config.seed))
    target = folder / "comparison"
    target.with_suffix(".md").write_text(f"{text}\n")
    rows.write_csv(target.with_suffix(".csv"))
    rows.write_parquet(target.with_suffix(".parquet"))
    print(f"{text}\n\n{target}.md, .csv and .parquet: written")
    return 0


def _span(period: Period) -> tuple[date, date]:
    """Return the first and last day whose rows a comparison reads: also those of the volatility model."""
    from btc_assets.learning.volatility import WINDOW_DAYS

    return period.first - timedelta(days=max(period.window_days, WINDOW_DAYS)), period.last


def _from_files(files: str, period: Period) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return features, labels and closes of the bars in files."""
    first, last = _span(period)
    begin, end, now = midnight(first - timedelta(days=WARMUP_DAYS)), midnight(last + timedelta(days=1)), wall_clock()
    bars = clean(FileSource(files, setting="--files").fetch(begin, min(end, now), now)).frame.sort("open_time")
    if bars.is_empty():
        raise ComparisonError(f"{files} has no bars from {begin.date()} to {last}")
    features = compute_features(inputs_of(bars))
    return features, compute_labels(bars, begin, end), bars.select("open_time", "close")


def _from_lake(config: Settings, period: Period) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return features, labels and closes of the tables in the lake."""
    lake, span = Lake(root=config.lake_root), _span(period)
    features, labels, prices = (lake.scan(table, *span).collect() for table in (HOURLY_FEATURES, HOURLY_LABELS, PRICES))
    return features, labels, prices.select("open_time", "close")
