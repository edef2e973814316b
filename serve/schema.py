"""The OpenAPI document, exact for the model that is loaded: a client sees which features a row must have."""

from __future__ import annotations

import copy
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

from serve.model import LARGEST, MAX_ROWS
from serve.state import State, Watcher

_TIME = {"type": "string", "format": "date-time"}


class LoadedModelSchema(OpenAPIRenderPlugin):
    """Renders the document as JSON with the rows of the loaded model."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the document as it is now."""
        watcher: Watcher = request.app.state["watcher"]
        return self.render_json(request, with_rows_of(openapi_schema, watcher.state))


def with_rows_of(document: dict[str, Any], state: State | None) -> dict[str, Any]:
    """Return the OpenAPI document with the body of `/v1/predict` filled in for the loaded model."""
    document = copy.deepcopy(document)
    document["components"]["schemas"]["FeatureRow"] = _feature_row(state)
    row = {"$ref": "#/components/schemas/FeatureRow"}
    document["paths"]["/v1/predict"]["post"]["requestBody"] = {
        "required": True,
        "description": "One row of named features, or a list of up to 1,000; null where a value is not known.",
        "content": {
            "application/json": {
                "schema": {"anyOf": [row, {"type": "array", "items": row, "minItems": 1, "maxItems": MAX_ROWS}]}
            }
        },
    }
    for parameter in document["paths"]["/v1/forecasts"]["get"]["parameters"]:
        if parameter["name"] in ("from", "to"):
            parameter["schema"] = _TIME
    return document


def _feature_row(state: State | None) -> dict[str, Any]:
    number = {"type": ["number", "null"], "minimum": -LARGEST, "maximum": LARGEST}
    if state is None:
        return {"type": "object", "additionalProperties": number}
    described = {feature["name"]: feature for feature in state.model.document["features"]}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(state.model.features),
        "properties": {
            name: {**number, "description": f"{described[name].get('about', '')} [{described[name].get('unit', '')}]"}
            for name in state.model.features
        },
    }
