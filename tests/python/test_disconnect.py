"""Clients that go away: what they asked for stops on the node that computes it.

The simulated model `paced` makes 200 tokens at 50 a second, so that an answer left alone would go
on for four seconds. What its node counts tells whether it did.
"""

import pytest

import fleet
import raw_http
from fleet import user

MODEL = "paced"
WHOLE = 200
PATH = "/v1/chat/completions"
# Half a second's worth at the model's pace: how late a busy machine may notice.
SLACK = 25


def begin(stream, **parameters):
    return raw_http.OpenRequest(PATH, {"model": MODEL, "messages": user("hello"), "stream": stream, **parameters})


def marker():
    """A request of five tokens from beginning to end, to be seen in the counters."""
    reply = raw_http.post(PATH, {"model": MODEL, "messages": user("hello"), "max_tokens": 5})
    assert reply.status == 200
    return 5


def tokens_after(before, leave):
    """How many tokens the model made for clients that left, once it has stopped for good.

    `leave` makes them leave and tells how many they were. That the model says it is idle and
    has cancelled them is one half of the proof; the other is a request that comes after: when
    its tokens are counted, those of a generation that had gone on would be too.
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
    assert after["outputTokens"] == at_stop + more, "tokens were made after the request was cancelled"
    assert after["failed"] == before["failed"]
    return at_stop - before["outputTokens"]


@pytest.mark.parametrize("way", ["leave", "break_off"])
def test_a_stream_stops_when_its_client_goes_away(way):
    before = fleet.idle(MODEL)
    request = begin(stream=True)
    request.read_frames(3)
    seen = request.frames()

    def leave():
        getattr(request, way)()
        return 1

    assert tokens_after(before, leave) <= seen + SLACK < WHOLE


@pytest.mark.parametrize("way", ["leave", "break_off"])
def test_an_answer_that_is_not_streamed_stops_when_its_client_goes_away(way):
    before = fleet.idle(MODEL)
    request = begin(stream=False)
    fleet.until(lambda: fleet.counters(MODEL)["active"] == 1, "the request is being computed")
    seen = fleet.counters(MODEL)["outputTokens"] - before["outputTokens"]

    def leave():
        getattr(request, way)()
        return 1

    # What is seen may be as old as a report of the node: a second, or 50 tokens.
    assert tokens_after(before, leave) <= seen + 50 + SLACK < WHOLE


def test_the_official_clients_stream_stops_when_it_is_closed(client):
    before = fleet.idle(MODEL)

    def leave():
        with client.chat.completions.create(model=MODEL, messages=user("hello"), stream=True) as stream:
            for number, _ in enumerate(stream):
                if number == 3:
                    break
        return 1

    assert tokens_after(before, leave) <= 4 + SLACK


def test_all_choices_stop_when_their_client_goes_away():
    before = fleet.idle(MODEL)
    request = begin(stream=True, n=3)
    request.read_frames(6)
    seen = request.frames()

    def leave():
        request.leave()
        return 1

    assert tokens_after(before, leave) <= seen + 3 * SLACK < 3 * WHOLE


def test_many_clients_that_go_away_leave_nothing_behind():
    before = fleet.idle(MODEL)
    requests = [begin(stream=True) for _ in range(4)]
    for request in requests:
        request.read_frames(2)
    seen = sum(request.frames() for request in requests)

    def leave():
        for request in requests:
            request.leave()
        return len(requests)

    # The last to be asked kept the first waiting: each goes on while the others are read.
    assert tokens_after(before, leave) <= seen + 4 * 2 * SLACK < 4 * WHOLE


def test_who_leaves_the_queue_makes_room_and_is_never_computed():
    """Four are computed at once; a fifth waits, goes away, and costs nothing."""
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
def test_a_real_model_stops_when_its_clients_go_away(stream):
    """Long answers, several at once, their clients gone as soon as some are computed."""
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

    fleet.until(settled, "what was asked for is cancelled")
    made = fleet.counters(model)["outputTokens"] - before["outputTokens"]
    assert made < 6 * 8 * 400 / 2
    # And the engine is well.
    reply = raw_http.post(PATH, {"model": model, "messages": user("hello"), "temperature": 0})
    assert reply.status == 200
