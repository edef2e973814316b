"""The OpenAPI document, extended with the features of the loaded model."""

from __future__ import annotations

import copy
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

from serve.model import MAX_MAGNITUDE, MAX_ROWS
from serve.state import State, Watcher

_TIME = {"type": "string", "format": "date-time"}


class LoadedModelSchema(OpenAPIRenderPlugin):
    """Renders the OpenAPI document as JSON with the feature row of the loaded model."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the current document."""
        watcher: Watcher = request.app.state["watcher"]
        return self.render_json(request, with_feature_rows(openapi_schema, watcher.state))


def with_feature_rows(document: dict[str, Any], state: State | None) -> dict[str, Any]:
    """Return the OpenAPI document with the request bodies for the loaded model."""
    document = copy.deepcopy(document)
    document["components"]["schemas"]["FeatureRow"] = _feature_row(state)
    row = {"$ref": "#/components/schemas/FeatureRow"}
    limits = {"/v1/predict": ("a list of up to 1,000 rows", MAX_ROWS), "/v1/explain": ("a list of one row", 1)}
    for path, (words, most) in limits.items():
        rows = {"type": "array", "items": row, "minItems": 1, "maxItems": most}
        document["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "description": f"One row of named features, or {words}; null is an unknown value.",
            "content": {"application/json": {"schema": {"anyOf": [row, rows]}}},
        }
    for path in ("/v1/forecasts", "/v1/explanation"):
        for parameter in document["paths"][path]["get"]["parameters"]:
            if parameter["name"] in ("from", "to", "made_at"):
                parameter["schema"] = _TIME
    return document


def _feature_row(state: State | None) -> dict[str, Any]:
    number = {"type": ["number", "null"], "minimum": -MAX_MAGNITUDE, "maximum": MAX_MAGNITUDE}
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
