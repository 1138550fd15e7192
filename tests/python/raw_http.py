"""HTTP without a client library, to test exactly what is on the wire."""

import http.client
import json
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import fleet


@dataclass
class Reply:
    """A complete response. The names of headers are in lower case."""

    status: int
    headers: dict
    body: bytes

    def json(self):
        assert self.headers["content-type"] == "application/json", self.headers
        return json.loads(self.body)


def address():
    parts = urlsplit(fleet.URL)
    return parts.hostname, parts.port or 80


def connect():
    return http.client.HTTPConnection(*address(), timeout=fleet.DEADLINE)


def send(connection, method, path, body=None):
    """Sends a request over a connection that stays open. A body that is not bytes is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"content-type": "application/json"} if data is not None else {})
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def request(method, path, body=None):
    connection = connect()
    try:
        return send(connection, method, path, body)
    finally:
        connection.close()


def get(path):
    return request("GET", path)


def post(path, body):
    return request("POST", path, body)


def frames(reply):
    """Checks the framing of an event stream to the byte and returns the JSON of its frames."""
    assert reply.status == 200, reply
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.body.endswith(b"data: [DONE]\n\n"), reply.body[-200:]
    texts = reply.body.removesuffix(b"\n\n").split(b"\n\n")
    for text in texts:
        assert text.startswith(b"data: "), text
        assert b"\n" not in text and b"\r" not in text, text
    assert texts[-1] == b"data: [DONE]"
    assert b"data: [DONE]" not in texts[:-1]
    return [json.loads(text.removeprefix(b"data: ")) for text in texts[:-1]]


class OpenRequest:
    """A request whose client can disconnect before the answer is complete."""

    def __init__(self, path, body):
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self.socket = socket.create_connection(address(), timeout=fleet.DEADLINE)
        self.socket.sendall(head.encode() + data)
        self.received = b""

    def read_frames(self, count):
        """Reads until this many frames have arrived."""
        while self.frames() < count:
            piece = self.socket.recv(65536)
            assert piece, f"the answer ended early: {self.received}"
            self.received += piece

    def frames(self):
        """Returns how many frames have arrived."""
        return self.received.count(b"data: ")

    def leave(self):
        """Closes the connection in order."""
        self.socket.close()

    def reset(self):
        """Closes the connection with a TCP reset, as the system does for a killed process."""
        linger_none = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
        self.socket.close()
