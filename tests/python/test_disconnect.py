"""Clients that disconnect: their answers stop on the node that computes them.

The simulated model `paced` generates 200 tokens at 50 a second, so a complete answer takes four
seconds. The counters of its node show whether the answer was stopped.
"""

import pytest

import fleet
import raw_http
from fleet import user

MODEL = fleet.PACED
WHOLE = 200
PATH = "/v1/chat/completions"
# The tokens of half a second: a busy machine may notice a lost client that late.
SLACK = 25


def begin(stream, **parameters):
    return raw_http.OpenRequest(PATH, {"model": MODEL, "messages": user("hello"), "stream": stream, **parameters})


def marker():
    """Sends a request of five tokens, which will be visible in the counters, and returns that number."""
    reply = raw_http.post(PATH, {"model": MODEL, "messages": user("hello"), "max_tokens": 5})
    assert reply.status == 200
    return 5


def tokens_generated_until_cancelled(before, leave):
    """Disconnects clients and returns how many tokens the model has generated for them.

    `leave` disconnects the clients and returns their number. The counters must show that the model has
    cancelled the requests and is idle. A later request then proves that no generation continues: its
    tokens would be counted with those of the later request.
    """
    left = leave()

    def cancelled():
        now = fleet.counters(MODEL)
        return now["cancelled"] == before["cancelled"] + left and now["active"] == now["queued"] == 0

    fleet.until(cancelled, f"{left} cancelled requests are counted and nothing is active")
    at_stop = fleet.counters(MODEL)["outputTokens"]
    more = marker()

    def counted():
        now = fleet.counters(MODEL)
        done = now["requests"] == before["requests"] + left + 1 and now["active"] == 0
        return now if done and now["outputTokens"] >= at_stop + more else None

    after = fleet.until(counted, "the request that came after is counted")
    assert after["outputTokens"] == at_stop + more, "tokens were generated after the request was cancelled"
    assert after["failed"] == before["failed"]
    return at_stop - before["outputTokens"]


@pytest.mark.parametrize("way", ["leave", "reset"])
def test_stream_stops_when_its_client_disconnects(way):
    before = fleet.idle(MODEL)
    request = begin(stream=True)
    request.read_frames(3)
    seen = request.frames()

    def leave():
        getattr(request, way)()
        return 1

    assert tokens_generated_until_cancelled(before, leave) <= seen + SLACK < WHOLE


@pytest.mark.parametrize("way", ["leave", "reset"])
def test_unstreamed_answer_stops_when_its_client_disconnects(way):
    before = fleet.idle(MODEL)
    request = begin(stream=False)
    fleet.until(lambda: fleet.counters(MODEL)["active"] == 1, "the request is being computed")
    seen = fleet.counters(MODEL)["outputTokens"] - before["outputTokens"]

    def leave():
        getattr(request, way)()
        return 1

    # The counters may be as old as a report of the node: one second, or 50 tokens.
    assert tokens_generated_until_cancelled(before, leave) <= seen + 50 + SLACK < WHOLE


def test_stream_of_the_official_client_stops_when_closed(client):
    before = fleet.idle(MODEL)

    def leave():
        with client.chat.completions.create(model=MODEL, messages=user("hello"), stream=True) as stream:
            for number, _ in enumerate(stream):
                if number == 3:
                    break
        return 1

    assert tokens_generated_until_cancelled(before, leave) <= 4 + SLACK


def test_all_choices_stop_when_their_client_disconnects():
    before = fleet.idle(MODEL)
    request = begin(stream=True, n=3)
    request.read_frames(6)
    seen = request.frames()

    def leave():
        request.leave()
        return 1

    assert tokens_generated_until_cancelled(before, leave) <= seen + 3 * SLACK < 3 * WHOLE


def test_answers_stop_when_many_clients_disconnect():
    before = fleet.idle(MODEL)
    requests = [begin(stream=True) for _ in range(4)]
    for request in requests:
        request.read_frames(2)
    seen = sum(request.frames() for request in requests)

    def leave():
        for request in requests:
            request.leave()
        return len(requests)

    # Each answer continues while the frames of the others are read.
    assert tokens_generated_until_cancelled(before, leave) <= seen + 4 * 2 * SLACK < 4 * WHOLE


def test_request_whose_client_disconnects_leaves_the_queue():
    """Four requests are computed at the same time. The fifth waits and is never computed."""
    before = fleet.idle(MODEL)
    computed = [begin(stream=True) for _ in range(4)]
    for request in computed:
        request.read_frames(1)
    waiting = begin(stream=True)
    fleet.until(lambda: fleet.counters(MODEL)["queued"] == 1, "the fifth request waits")
    waiting.leave()
    fleet.until(lambda: fleet.counters(MODEL)["queued"] == 0, "the fifth request has left the queue")
    assert fleet.counters(MODEL)["requests"] == before["requests"] + 4
    for request in computed:
        request.leave()
    after = fleet.idle(MODEL)
    assert after["requests"] == before["requests"] + 4
    assert after["cancelled"] == before["cancelled"] + 4


@pytest.mark.parametrize("stream", [False, True])
def test_real_model_stops_when_its_clients_disconnect(stream):
    """The clients of several long answers disconnect as soon as some of them are computed."""
    model = "support-intent"
    before = fleet.idle(model)
    body = {
        "model": model,
        "messages": user("hello"),
        "stream": stream,
        "n": 8,
        "temperature": 1,
        **fleet.talkative(model, 400),
    }
    requests = [raw_http.OpenRequest(PATH, body) for _ in range(6)]
    fleet.until(lambda: fleet.counters(model)["active"], "some are being computed")
    for request in requests:
        request.leave()

    def settled():
        now = fleet.counters(model)
        return now["active"] == now["queued"] == 0 and now["cancelled"] > before["cancelled"]

    fleet.until(settled, "the requests are cancelled")
    generated = fleet.counters(model)["outputTokens"] - before["outputTokens"]
    assert generated < 6 * 8 * 400 / 2
    # The engine still answers.
    reply = raw_http.post(PATH, {"model": model, "messages": user("hello"), "temperature": 0})
    assert reply.status == 200
