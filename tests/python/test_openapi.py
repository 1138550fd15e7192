"""The description at /openapi.json: it names every route, and what the server does agrees with it.

The requests are generated from the description, always the same ones.
"""

import functools

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

import fleet
import raw_http

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
    allow_header_conformance,
]

# Requests to these are generated.
TRIED = [
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/route",
    "POST /v1/decisions/{id}/feedback",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /v1/decisions/{id}",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /openapi.json",
    "GET /dashboard/{path}",
    "GET /api/v1/artifacts",
    "GET /api/v1/assignments",
    "GET /api/v1/authority",
    "GET /api/v1/blobs/{sha256}",
    "GET /api/v1/controllers",
    "GET /api/v1/datasets",
    "GET /api/v1/datasets/{task}",
    "GET /api/v1/enrolments",
    "GET /api/v1/fleet",
    "GET /api/v1/manifests",
    "GET /api/v1/whoami",
    "GET /api/v1/keys",
    "GET /api/v1/audit",
    "GET /api/v1/models",
    "GET /api/v1/models/{name}",
    "GET /api/v1/nodes",
    "GET /api/v1/nodes/{name}",
    "GET /api/v1/routers",
    "GET /api/v1/routers/{name}",
    "GET /api/v1/classifier",
    "GET /api/v1/tasks",
    "GET /api/v1/tasks/{name}",
    "GET /api/v1/tasks/{name}/suggestions",
    "GET /api/v1/tokens",
]

# These would change the fleet, do not end, or lead elsewhere.
UNTRIED = [
    "GET /",
    "GET /dashboard",
    "GET /dashboard/",
    "GET /api/v1/live",
    "POST /api/v1/apply",
    "POST /api/v1/delete",
    "PUT /api/v1/artifacts/{name}",
    "DELETE /api/v1/artifacts/{name}",
    "PUT /api/v1/blobs/{sha256}",
    "DELETE /api/v1/datasets/{task}",
    "PUT /api/v1/authority",
    "PUT /api/v1/enrolments/{name}",
    "PUT /api/v1/fleet",
    "POST /api/v1/keys",
    "PUT /api/v1/keys/{id}",
    "DELETE /api/v1/keys/{id}",
    "POST /login",
    "POST /logout",
    "PUT /api/v1/models/{name}",
    "DELETE /api/v1/models/{name}",
    "DELETE /api/v1/nodes/{name}",
    "PUT /api/v1/nodes/{name}/operation",
    "POST /api/v1/nodes/{name}/revoke",
    "PUT /api/v1/routers/{name}",
    "DELETE /api/v1/routers/{name}",
    "PUT /api/v1/tasks/{name}",
    "DELETE /api/v1/tasks/{name}",
    "PUT /api/v1/tasks/{name}/quality/{model}",
    "POST /api/v1/tokens",
    "DELETE /api/v1/tokens/{id}",
]


@functools.cache
def description():
    return schemathesis.openapi.from_dict(raw_http.get("/openapi.json").json())


def test_description_is_valid_and_names_every_route():
    description().validate()
    paths = raw_http.get("/openapi.json").json()["paths"]
    operations = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert sorted(operations) == sorted(TRIED + UNTRIED)


@pytest.mark.parametrize("operation", TRIED)
def test_server_agrees_with_its_description(operation):
    method, path = operation.split()

    @hypothesis.given(case=description()[path][method].as_strategy())
    @hypothesis.settings(
        max_examples=15,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case):
        # A list that is watched does not end.
        case.query.pop("watch", None)
        case.call_and_validate(base_url=fleet.URL, checks=CHECKS, timeout=fleet.DEADLINE)

    check()
