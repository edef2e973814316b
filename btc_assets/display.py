"""Convert frames and plots to Dagster metadata: records and small PNGs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE_INCHES, _DPI, _COLOURS = (7.0, 3.2), 80, 48


def table_metadata(frame: pl.DataFrame) -> dg.TableMetadataValue:
    """Return a frame as a table for the Dagster UI."""
    records: list[Any] = [dg.TableRecord(row) for row in frame.iter_rows(named=True)]
    return dg.TableMetadataValue(
        records=records, schema=dg.TableSchema([dg.TableColumn(name) for name in frame.columns])
    )


def markdown_image(png: bytes, title: str) -> str:
    """Return a PNG as a Markdown image with embedded data."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def empty_figure(title: str, unit: str) -> tuple[Figure, Axes]:
    """Return an empty figure without pyplot's global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9)
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    return figure, axes


def render_png(figure: Figure) -> bytes:
    """Render a figure with few colours: metadata is stored for every materialisation, so plots must be small."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
