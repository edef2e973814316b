"""A valid row gets the model's forecast; an invalid row gets an error that names the field."""

from __future__ import annotations

import json
import math
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar.testing import TestClient

from btc_assets.learning.forecast_model import ForecastModel
from btc_assets_tests.serve.conftest import Server
from btc_assets_tests.serving.builders import FEATURE_NAMES, publish_small
from serve.app import create_app
from serve.model import MAX_MAGNITUDE, MAX_ROWS, InvalidRowsError, RowReader

ROW = dict.fromkeys(FEATURE_NAMES, 0.1)
JSON = {"Content-Type": "application/json"}


def post(client: httpx.Client, body: object) -> httpx.Response:
    """Post a body: bytes unchanged, other values as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/v1/predict", content=content, headers=JSON)


def test_a_forecast_equals_that_of_the_model(client: httpx.Client, server: Server) -> None:
    model = ForecastModel.load(server.models / "model-7")
    rows = np.random.default_rng(5).normal(size=(40, len(FEATURE_NAMES)))
    rows[3, 1] = np.nan
    named = [
        {name: None if math.isnan(v) else v for name, v in zip(FEATURE_NAMES, row, strict=True)}
        for row in rows.tolist()
    ]
    response = post(client, named).json()
    assert response["model"]["digest"] == model.digest
    assert len(response["rows"]) == 40
    for position, horizon in enumerate(model.horizons):
        expected = model.predict(rows)[horizon]
        for i, row in enumerate(response["rows"]):
            forecast = row["horizons"][position]
            assert forecast["horizon_minutes"] == horizon
            assert forecast["p_up"] == expected.p_up[i]
            quantiles = [forecast["interval_90"]["lower"], forecast["interval_50"]["lower"], forecast["median_return"]]
            quantiles += [forecast["interval_50"]["upper"], forecast["interval_90"]["upper"]]
            assert quantiles == expected.quantiles[i].tolist()


def test_one_object_equals_a_list_of_one_object(client: httpx.Client) -> None:
    assert post(client, ROW).json() == post(client, [ROW]).json()


def test_the_order_of_features_does_not_matter(client: httpx.Client) -> None:
    row = {name: 0.1 * i for i, name in enumerate(FEATURE_NAMES)}
    assert post(client, row).json() == post(client, dict(reversed(row.items()))).json()


def test_a_thousand_rows_are_accepted(client: httpx.Client) -> None:
    response = post(client, [ROW] * MAX_ROWS)
    assert response.status_code == 200
    assert len(response.json()["rows"]) == MAX_ROWS


def with_rsi(literal: str) -> bytes:
    """Return a row with a literal JSON text as value of rsi."""
    return json.dumps({**ROW, "rsi": "LITERAL"}).replace('"LITERAL"', literal).encode()


@pytest.mark.parametrize(
    ("body", "field", "sentence"),
    [
        ({**ROW, "colour": 1.0}, "colour", "is not a feature of this model"),
        ({name: 0.1 for name in FEATURE_NAMES if name != "rsi"}, "rsi", "is missing"),
        ([ROW, {**ROW, "colour": 1.0}], "[1].colour", "in row [1] is not a feature"),
        ({}, "returns_1h", "is missing"),
        (with_rsi("NaN"), "rsi", "finite number"),
        (with_rsi("Infinity"), "rsi", "finite number"),
        (with_rsi("-Infinity"), "rsi", "finite number"),
        (b"[" + with_rsi("NaN") + b"]", "[0].rsi", "finite number"),
        (with_rsi("1e400"), "rsi", "finite number"),
        (with_rsi("1e39"), "rsi", "exceeds the largest magnitude"),
        (with_rsi("-1" + "0" * 400), "rsi", "exceeds the largest magnitude"),
        ({**ROW, "rsi": "55"}, "rsi", "not text"),
        ({**ROW, "rsi": True}, "rsi", "not a boolean"),
        ({**ROW, "rsi": [55]}, "rsi", "not a list"),
        ({**ROW, "rsi": {"value": 55}}, "rsi", "not an object"),
        ([ROW, 5], "[1]", "must be an object"),
        ([ROW, [ROW]], "[1]", "must be an object"),
        ([ROW, None], "[1]", "not null"),
        ([], "body", "has 0 rows"),
        ([ROW] * (MAX_ROWS + 1), "body", "has 1,001 rows"),
        ("row", "body", "not text"),
        (None, "body", "not null"),
        (5, "body", "not a number"),
        (b"", "body", "not JSON"),
        (b"{", "body", "not JSON"),
        (b'{"rsi": 1} trailing', "body", "not JSON"),
        (b"\xff\xfe", "body", "not JSON"),
        (b"[" * 200_000, "body", "nested too deeply"),
        (with_rsi("1" * 5000), "body", "not JSON"),
    ],
)
def test_invalid_rows_have_an_error_that_names_the_field(
    client: httpx.Client, body: object, field: str, sentence: str
) -> None:
    response = post(client, body)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["field"] == field
    assert sentence in response.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_ten_megabytes_are_refused_before_they_are_read(client: httpx.Client, chunked: bool) -> None:
    def pieces() -> object:
        for _ in range(160):
            yield b" " * 65_536

    content = pieces() if chunked else b" " * 10_485_760
    try:
        response = client.post("/v1/predict", content=content, headers=JSON)  # type: ignore[arg-type]
    except httpx.TransportError:
        pytest.fail("the error response did not reach the client")
    assert response.status_code == 413
    assert response.json()["field"] == "body"


@pytest.mark.parametrize("declared", ["application/json", "Application/JSON ; charset=utf-8"])
def test_a_json_content_type_is_accepted_in_any_spelling(client: httpx.Client, declared: str) -> None:
    response = client.post("/v1/predict", content=json.dumps(ROW), headers={"Content-Type": declared})
    assert response.status_code == 200
    assert set(response.headers) == {"date", "server", "content-type", "content-length"}
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [("/v1/predict/", "localhost", 200), ("/v1/predict", "local_host", 200), ("/v1/predict", "local host", 400)],
)
def test_requests_passed_to_the_router_get_the_same_response(
    client: httpx.Client, path: str, host: str, status: int
) -> None:
    expected = post(client, ROW)
    response = client.post(path, json=ROW, headers={"Host": host})
    assert response.status_code == status
    if status == 200:
        assert (response.content, set(response.headers)) == (expected.content, set(expected.headers))


def test_an_internal_error_does_not_reveal_its_cause(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models)
    with TestClient(create_app(tmp_path), raise_server_exceptions=False) as client:
        client.app.state["watcher"].state.model._graphs = None
        response = client.post("/v1/predict", json=ROW)
    assert response.status_code == 500
    assert response.json() == {"error": "Internal server error; the server's log has the details.", "field": None}


def test_other_content_types_are_refused(client: httpx.Client) -> None:
    for headers in ({"Content-Type": "text/plain"}, {}):
        response = client.post("/v1/predict", content=json.dumps(ROW), headers=headers)
        assert response.status_code == 415
        assert response.json()["field"] == "Content-Type"


VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=3), st.lists(st.none(), max_size=1)
)


@settings(max_examples=120, deadline=None)
@given(row=st.dictionaries(st.sampled_from([*FEATURE_NAMES, "x"]), VALUES), as_list=st.booleans())
def test_a_row_is_valid_if_and_only_if_every_feature_is_a_finite_number_or_null(row: dict, as_list: bool) -> None:
    valid = set(row) == set(FEATURE_NAMES) and all(
        value is None
        or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_MAGNITUDE)
        for value in row.values()
    )
    body = json.dumps([row] if as_list else row).encode()
    reader = RowReader(FEATURE_NAMES)
    if not valid:
        with pytest.raises(InvalidRowsError, match=r"\.$") as refused:
            reader.read(body)
        assert refused.value.fault.field != "body"
        return
    read = reader.read(body)
    assert read.shape == (1, len(FEATURE_NAMES))
    assert [None if math.isnan(v) else v for v in read[0]] == [
        None if row[name] is None else float(row[name]) for name in FEATURE_NAMES
    ]
