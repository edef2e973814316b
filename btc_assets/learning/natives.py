"""The members of a model in the formats of their libraries: file names, reading, and what the libraries forecast.

Forecasts never use them. They explain a model and its forecasts, compare its graphs with its libraries, and hold the
fits with other seeds that a verdict compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from btc_assets.learning.families.protocol import Family, FittedOutput, Inputs, Vector
from btc_assets.learning.families.registry import family
from btc_assets.learning.forecast_model import ForecastModel, required_columns


def native_name(member: str, horizon: int, of: Family[Any], seed: int | None = None) -> str:
    """Return the file name of a member's P(up), fitted with the model's seed or another one.

    Args:
        member: name of the member.
        horizon: minutes ahead.
        of: its family.
        seed: the other seed; None for the model's.
    """
    return f"{member}.p_up_{horizon}m{'' if seed is None else f'_seed_{seed}'}.{of.suffix}"


def read_members(model: ForecastModel, folder: Path, horizon: int, seed: int | None = None) -> dict[str, FittedOutput]:
    """Return P(up) of each member by name, fitted with the model's seed or another one.

    A member whose fit does not depend on the seed has the same for every seed.

    Args:
        model: the model.
        folder: its native files.
        horizon: minutes ahead.
        seed: the other seed; None for the model's.

    Raises:
        FileNotFoundError: the model was stored without that seed.
    """
    return members_of(model.document, lambda name: (folder / name).read_bytes(), horizon, seed)


def members_of(
    document: Mapping[str, Any], read: Callable[[str], bytes], horizon: int, seed: int | None = None
) -> dict[str, FittedOutput]:
    """Return P(up) of each member by name from its file, see `read_members`.

    Args:
        document: `model.json`.
        read: returns the content of a file by its name.
        horizon: minutes ahead.
        seed: the other seed; None for the model's.
    """
    outputs = {}
    for member in document["members"]:
        of = family(member["family"])
        content = read(native_name(member["name"], horizon, of, seed if of.stochastic else None))
        outputs[member["name"]] = of.read(content, len(member["features"]))
    return outputs


def native_names(document: Mapping[str, Any]) -> list[str]:
    """Return the file names of all members' P(up), fitted with the model's seed."""
    return [
        native_name(member["name"], horizon, family(member["family"]))
        for member in document["members"]
        for horizon in document["horizons"]
    ]


def library_p_up(
    document: Mapping[str, Any],
    outputs: Mapping[str, FittedOutput],
    rows: Inputs,
    scale: Vector,
    horizon: int,
    missing: np.ndarray | None = None,
) -> Vector:
    """Return the ensemble's P(up) as the libraries compute it, (n,).

    Args:
        document: `model.json`.
        outputs: P(up) of each member.
        rows: float32, (n, f), columns in the order of the document's features.
        scale: scale of each row, (n,), fraction.
        horizon: minutes ahead.
        missing: see `ForecastModel.predict`.
    """
    from btc_assets.learning.ensemble import ensemble_of  # needs polars, which the server does not load

    members = document["members"]
    lacks = (np.isnan(rows) if missing is None else missing) @ required_columns(document)
    abstains = lacks & ~lacks.all(axis=1, keepdims=True)
    p_up = np.stack([outputs[one["name"]].predict(np.ascontiguousarray(rows[:, one["features"]])) for one in members])
    return ensemble_of(document, horizon)(np.where(abstains.T, np.nan, p_up), scale)
