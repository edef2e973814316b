"""Features of eight years of bars: the engine against pandas with pandas-ta-classic, the same columns.

    python -m benchmarks.features

The peer computes the features of the catalogue with typical pandas calls, including TA-Lib's C code where
pandas-ta-classic uses it. Every column is compared; the benchmark fails if one differs. Each side starts from its own
frame type, the sides alternate, and the fastest run counts. The engine uses every core, pandas one.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from btc_assets.features.catalog import FEATURES
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.market.synthetic import random_walk
from btc_assets.market.tables import PRICES

if TYPE_CHECKING:
    import pandas as pd

PEER = "pandas-ta-classic"
YEARS = 8
HOURS = YEARS * 365 * 24
REPEATS = 5
TOLERANCE = 1e-6


def peer(bars: pd.DataFrame) -> pd.DataFrame:
    """Compute the compared features with pandas and pandas-ta-classic."""
    import pandas as pd
    import pandas_ta_classic as ta

    close, high, low, volume = bars["close"], bars["high"], bars["low"], bars["volume"]
    taker, quote, trades = bars["taker_buy_volume"], bars["quote_volume"], bars["trades"]
    step = np.log(close / close.shift(1))
    out: dict[str, pd.Series] = {f"returns_{h}h": np.log(close / close.shift(h)) for h in (1, 2, 3, 4, 5, 10, 24, 72)}
    out |= {f"return_lag_{k}": step.shift(k) for k in (1, 2, 3, 5, 10)}
    out |= {f"sma_{n}_distance": close / ta.sma(close, length=n) - 1 for n in (5, 10, 20, 50, 200)}
    out |= {f"ema_{n}_distance": close / ta.ema(close, length=n) - 1 for n in (5, 10, 20)}
    out |= {f"close_zscore_{n}": (close - close.rolling(n).mean()) / close.rolling(n).std() for n in (10, 24, 72)}
    out["rsi"] = ta.rsi(close, length=14)
    out["rsi_6"] = ta.rsi(close, length=6)
    out["atr"] = ta.atr(high, low, close, length=14)
    out["atr_relative"] = out["atr"] / close
    macd = ta.macd(close, fast=12, slow=26, signal=9)
    out |= {
        name: macd[column] / close
        for name, column in (
            ("macd_line", "MACD_12_26_9"),
            ("macd_signal", "MACDs_12_26_9"),
            ("macd_histogram", "MACDh_12_26_9"),
        )
    }
    out["roc_10"] = ta.roc(close, length=10)
    out["momentum_12"] = ta.mom(close, length=12) / close
    out["range_position_24h"] = (close - low.rolling(24).min()) / (high.rolling(24).max() - low.rolling(24).min())
    out["drawdown_168h"] = close / high.rolling(168).max() - 1
    out["volume_ratio"] = volume / volume.rolling(24).mean()
    out |= {f"taker_imbalance_{n}h": 2 * taker.rolling(n).sum() / volume.rolling(n).sum() - 1 for n in (4, 24, 72)}
    out["vwap_24h_distance"] = close / (quote.rolling(24).sum() / volume.rolling(24).sum()) - 1
    out["trades_ratio"] = trades / trades.rolling(24).mean()
    out |= {f"realised_volatility_{n}h": step.rolling(n).std() for n in (24, 72, 168)}
    out["volatility_regime"] = (out["realised_volatility_24h"].rolling(720).rank() - 1) / 719
    return pd.DataFrame(out)


def run() -> list[tuple[str, float, float]]:
    """Return (description, our seconds, the peer's seconds); the values of both are compared."""
    warnings.filterwarnings("ignore")
    bars = random_walk(HOURS, seed=7).cast(PRICES.columns)
    frame = bars.to_pandas()
    theirs = peer(frame)
    selected = [feature for feature in FEATURES if feature.name in theirs.columns]
    missing = set(theirs.columns) - {feature.name for feature in selected}
    if missing:
        raise SystemExit(f"the catalogue no longer has {sorted(missing)}")
    ours = compute_features(inputs_of(bars), features=selected)
    for feature in selected:
        mine, other = ours[feature.name].to_numpy()[2000:], theirs[feature.name].to_numpy()[2000:]
        gap = float(np.nanmax(np.abs(mine - other) / np.maximum(1.0, np.abs(other))))
        if not gap < TOLERANCE or np.isnan(mine).any() or np.isnan(other).any():
            raise SystemExit(f"{feature.name} differs by {gap}")
    runs = [
        (_seconds(lambda: compute_features(inputs_of(bars), features=selected)), _seconds(lambda: peer(frame)))
        for _ in range(REPEATS)
    ]
    return [
        (
            f"{len(selected)} features of {HOURS:,} bars, s",
            min(mine for mine, _ in runs),
            min(other for _, other in runs),
        )
    ]


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Print the comparison."""
    for what, ours, theirs in run():
        print(f"{what}: ours {ours:.3f}, {PEER} {theirs:.3f}, {theirs / ours:.1f} times as fast")


if __name__ == "__main__":
    main()
