"""What all clients share: no word to anybody but the fleet, and a tokenizer that needs no download."""

import os
import socket

# Read when the libraries are imported.
os.environ.update(
    DO_NOT_TRACK="1",
    LANGSMITH_TRACING="false",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    LITELLM_MODE="PRODUCTION",
)

import pytest

from clients import local_tokenizer

LOOPBACK = {"127.0.0.1", "::1", "localhost"}

local_tokenizer.install()


@pytest.fixture(autouse=True)
def strangers(monkeypatch):
    """Fails a case whose client looks for any other host."""
    looked_for = []
    look_up = socket.getaddrinfo

    def checked_look_up(host, *arguments, **keywords):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in LOOPBACK:
            looked_for.append(name)
            raise socket.gaierror(socket.EAI_NONAME, f"{name} is not the fleet")
        return look_up(host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", checked_look_up)
    yield looked_for
    assert not looked_for
