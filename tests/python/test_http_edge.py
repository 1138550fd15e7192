"""What clients send and see besides fields and answers: encodings, numbers, limits, origins, errors of every route."""

import gzip
import json
import socket
import urllib.error
import urllib.request

import pytest

import fleet
import raw_http
from fleet import user

PATH = "/v1/chat/completions"
MIB = 1 << 20
BODY = {"model": "instant", "messages": user("hello")}
# Zstandard frames, as Python's library has no compressor: one raw block, and a block of 128 KiB that repeats a
# space, 64 times.
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def zstd(data):
    assert len(data) < 128 * 1024
    last_raw_block = (len(data) << 3 | 1).to_bytes(3, "little")
    return ZSTD_MAGIC + b"\xa0" + len(data).to_bytes(4, "little") + last_raw_block + data


def zstd_bomb(blocks):
    size = 128 * 1024
    repeated = b"".join((size << 3 | 2 | (index == blocks - 1)).to_bytes(3, "little") + b" " for index in range(blocks))
    return ZSTD_MAGIC + b"\xa0" + (size * blocks).to_bytes(4, "little") + repeated


def post(body, headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = raw_http.connect()
    try:
        connection.request("POST", PATH, data, {"content-type": "application/json", **headers})
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return raw_http.Reply(response.status, received, response.read())
    finally:
        connection.close()


def error(reply, status):
    assert reply.status == status, reply
    found = reply.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return found


# ---- bodies ----


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstd)])
def test_compressed_body_is_read(encoding, compress):
    reply = post(compress(json.dumps(BODY).encode()), {"content-encoding": encoding})
    assert reply.status == 200, reply
    assert reply.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", gzip.compress(b" " * 64 * MIB)), ("zstd", zstd_bomb(512))],
    ids=["gzip", "zstd"],
)
def test_size_limit_counts_decompressed_bytes(encoding, body):
    assert len(body) < 100_000
    assert error(post(body, {"content-encoding": encoding}), 413)["code"] == "request_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_body_that_is_not_compressed_as_it_says_is_refused(encoding):
    error(post(BODY, {"content-encoding": encoding}), 400)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
def test_unknown_encoding_is_refused(encoding):
    reply = post(BODY, {"content-encoding": encoding})
    assert error(reply, 415)["code"] == "unsupported_encoding"
    assert "gzip" in reply.headers["accept-encoding"]


def test_byte_order_mark_before_the_body_is_ignored():
    assert post(b"\xef\xbb\xbf" + json.dumps(BODY).encode(), {}).status == 200


def test_numbers_without_a_fraction_are_integers():
    limits = {"max_tokens": 3.0, "n": 2.0, "seed": 7.0, "top_k": 5.0}
    reply = raw_http.post(PATH, {**BODY, **limits})
    assert reply.status == 200, reply
    assert reply.json()["usage"]["completion_tokens"] == 6
    assert error(raw_http.post(PATH, {**BODY, "max_tokens": 3.5}), 400)["param"] == "max_tokens"


def test_empty_stop_text_is_none():
    assert raw_http.post(PATH, {**BODY, "stop": ""}).status == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (PATH, ["instant", []], None),
        (PATH, {**BODY, "messages": [["user", "hello"]]}, "messages[0]"),
        (PATH, {**BODY, "messages": [{"role": "user", "content": [["text", "hello"]]}]}, "messages[0].content[0]"),
        (PATH, {**BODY, "flotilla": ["banking"]}, "flotilla"),
        (PATH, {**BODY, "tools": [["function", {"name": "f"}]]}, "tools[0]"),
        (PATH, {**BODY, "stream": True, "stream_options": [True]}, "stream_options"),
        ("/v1/route", {"messages": [["user", "hello"]]}, "messages[0]"),
    ],
)
def test_array_in_place_of_an_object_is_refused(path, body, param):
    assert error(raw_http.post(path, body), 400)["param"] == param


def test_array_in_place_of_an_object_of_a_resource_is_refused():
    resource = {"apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": ["array"], "spec": {"engine": "simulated"}}
    refused = error(raw_http.request("PUT", "/api/v1/models/array", resource), 400)
    assert "metadata" in refused["message"] and "object" in refused["message"]


def test_refusal_of_an_assistant_is_part_of_the_conversation():
    refusal = [{"type": "refusal", "refusal": "I cannot."}]
    for message in [{"role": "assistant", "content": refusal}, {"role": "assistant", "refusal": "I cannot."}]:
        assert raw_http.post(PATH, {**BODY, "messages": [*user("a"), message, *user("b")]}).status == 200


# ---- bodies over the limit ----


@pytest.mark.parametrize("size", [5 * MIB, 60 * MIB])
def test_urllib_reads_the_refusal_of_a_body_over_the_limit(size):
    """It sends the whole body before it reads anything."""
    request = urllib.request.Request(fleet.URL + PATH, b"a" * size)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=fleet.DEADLINE)
    assert refused.value.code == 413
    assert json.load(refused.value)["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/models", "/api/v1/models/x"])
def test_urllib_reads_the_refusal_of_a_large_body_at_any_path(path):
    request = urllib.request.Request(fleet.URL + path, b"a" * 20 * MIB, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=fleet.DEADLINE)
    assert refused.value.code in (404, 405)
    assert json.load(refused.value)["error"]["message"]


def exchange(head, pieces):
    """Sends a request in pieces without reading in between, and returns all that the server answers."""
    with socket.create_connection(raw_http.address(), timeout=fleet.DEADLINE) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while data := connection.recv(65536):
            received += data
        return received


def test_chunked_body_over_the_limit_is_refused():
    piece = b"100000\r\n" + b"a" * MIB + b"\r\n"
    head = f"POST {PATH} HTTP/1.1\nhost: localhost\ntransfer-encoding: chunked\n\n"
    received = exchange(head, [piece] * 24 + [b"0\r\n\r\n"])
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in received


def test_body_over_the_limit_is_refused_before_it_is_sent():
    """A client that expects `100 Continue` need not send it."""
    head = f"POST {PATH} HTTP/1.1\nhost: localhost\nexpect: 100-continue\ncontent-length: {50 * MIB}\n\n"
    received = exchange(head, [])
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in received


def test_body_that_is_expected_is_read():
    data = json.dumps(BODY).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(raw_http.address(), timeout=fleet.DEADLINE) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 200 ")


# ---- origins ----

ORIGIN = "https://chat.example"


def preflight(path, origin):
    connection = raw_http.connect()
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-flotilla-task, x-stainless-os",
    }
    connection.request("OPTIONS", path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


@pytest.mark.parametrize("path", [PATH, "/v1/models", "/v1/embeddings", "/v1/route", "/readyz", "/openapi.json"])
def test_page_of_a_listed_origin_may_ask(path):
    response = preflight(path, ORIGIN)
    assert response.status == 200
    assert response.getheader("access-control-allow-origin") == ORIGIN
    allowed = response.getheader("access-control-allow-headers")
    assert all(name in allowed for name in ["authorization", "content-type", "x-flotilla-task", "x-stainless-os"])
    assert "POST" in response.getheader("access-control-allow-methods")


@pytest.mark.parametrize(("path", "origin"), [(PATH, "https://other.example"), ("/api/v1/models/instant", ORIGIN)])
def test_other_pages_and_the_admin_api_are_refused(path, origin):
    assert preflight(path, origin).getheader("access-control-allow-origin") is None


def test_page_may_read_the_headers_of_an_answer():
    reply = post(BODY, {"origin": ORIGIN})
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    exposed = reply.headers["access-control-expose-headers"]
    assert all(name in exposed for name in ["x-flotilla-decision", "x-flotilla-model", "retry-after"])
    refused = post({**BODY, "model": "nobody"}, {"origin": ORIGIN})
    assert refused.status == 404
    assert refused.headers["access-control-allow-origin"] == ORIGIN


# ---- errors of every route ----


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/%FF", 404),
        ("GET", "/v1/models/%FF", 400),
        ("GET", "/v1/decisions/%FF", 400),
        ("GET", "/api/v1/models/%FF", 400),
        ("GET", "/api/v1/models/nobody", 404),
        ("GET", "/api/v1/models?watch=maybe", 400),
        ("GET", "/metrics?nodes=some", 400),
        ("GET", "/dashboard/nothing.js", 404),
        ("GET", "/dashboard/%FF", 400),
        ("GET", "/api/v1/blobs/nothing", 404),
        ("PUT", "/api/v1/blobs/nothing", 404),
        ("POST", "/api/v1/models", 405),
        ("PATCH", "/api/v1/models/instant", 405),
        ("DELETE", "/metrics", 405),
        ("POST", "/", 405),
        ("POST", "/dashboard/", 405),
        ("POST", "/healthz", 405),
        ("PUT", "/readyz", 405),
        ("POST", "/openapi.json", 405),
        ("PUT", "/v1/route", 405),
        ("OPTIONS", "/api/v1/models", 200),
        ("TRACE", PATH, 405),
        ("PUT", "/api/v1/models/x", 400),
        ("PUT", "/api/v1/nodes/x/operation?allowUnknown=1", 400),
    ],
)
def test_error_of_any_route_has_the_shape_of_openai(method, path, status):
    reply = raw_http.request(method, path)
    assert reply.status == status, reply
    if status >= 400:
        assert error(reply, status)["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", PATH, "/api/v1/models/nobody", "/metrics"])
def test_head_has_the_status_of_get_and_no_body(path):
    head, get = raw_http.request("HEAD", path), raw_http.get(path)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_wrong_method_names_the_right_ones():
    reply = raw_http.request("DELETE", PATH)
    assert reply.headers["allow"] == "POST"
