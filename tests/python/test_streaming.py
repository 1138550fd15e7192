"""Event streams of chat completions: their frames and when they arrive."""

import time

import pytest

import fleet
import raw_http
from fleet import QUESTIONS, talkative, user

MODEL = "support-intent"
QUESTION = QUESTIONS[MODEL]
PATH = "/v1/chat/completions"


def stream(model, text="hello", **parameters):
    """Returns the frames of an answer."""
    body = {"model": model, "messages": user(text), "stream": True, **parameters}
    return raw_http.frames(raw_http.post(PATH, body))


def choices(frames):
    return [choice for frame in frames for choice in frame["choices"]]


@pytest.mark.parametrize("model", ["instant", *QUESTIONS])
def test_stream_is_data_frames_ended_by_done(model):
    frames = stream(model, QUESTIONS.get(model, QUESTION), temperature=0)
    assert len(frames) >= 2


def test_stream_headers_forbid_caching_and_buffering():
    reply = raw_http.post(PATH, {"model": "instant", "messages": user("hello"), "stream": True})
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["x-flotilla-model"] == "instant"
    assert reply.headers["x-flotilla-node"] in [node["metadata"]["name"] for node in fleet.nodes()]


@pytest.mark.parametrize("model", ["instant", MODEL])
def test_all_frames_of_an_answer_have_the_same_id_model_and_time(model):
    frames = stream(model)
    assert {frame["object"] for frame in frames} == {"chat.completion.chunk"}
    assert {frame["model"] for frame in frames} == {model}
    for field in ["id", "created"]:
        assert len({frame[field] for frame in frames}) == 1


@pytest.mark.parametrize("model", ["instant", MODEL])
@pytest.mark.parametrize("n", [1, 3])
def test_each_choice_starts_with_its_role_and_ends_with_its_finish_reason(model, n):
    frames = stream(model, n=n, temperature=1, max_tokens=6)
    for index in range(n):
        mine = [choice for choice in choices(frames) if choice["index"] == index]
        assert ["role" in choice["delta"] for choice in mine] == [True] + [False] * (len(mine) - 1)
        assert mine[0]["delta"]["role"] == "assistant"
        ends = [choice["finish_reason"] for choice in mine]
        assert ends[:-1] == [None] * (len(mine) - 1)
        assert ends[-1] in ["stop", "length"]
    assert {choice["index"] for choice in choices(frames)} == set(range(n))


def test_requested_usage_is_the_last_frame():
    frames = stream("instant", stream_options={"include_usage": True})
    assert frames[-1]["choices"] == []
    usage = frames[-1]["usage"]
    assert usage["completion_tokens"] == 9
    assert usage["total_tokens"] == usage["prompt_tokens"] + 9
    assert all(len(frame["choices"]) == 1 and frame["usage"] is None for frame in frames[:-1])


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
def test_usage_is_absent_by_default(options):
    frames = stream("instant", stream_options=options)
    assert all("usage" not in frame and len(frame["choices"]) == 1 for frame in frames)


def test_usage_of_several_choices_is_their_sum(ask):
    parameters = {"n": 3, "temperature": 2, **talkative(MODEL, 10)}
    frames = stream(MODEL, QUESTION, stream_options={"include_usage": True}, **parameters)
    unstreamed = ask(MODEL, QUESTION, **parameters)
    assert frames[-1]["usage"]["completion_tokens"] == 30
    assert frames[-1]["usage"]["prompt_tokens"] == unstreamed.usage.prompt_tokens


@pytest.mark.parametrize("model", ["instant", *QUESTIONS])
def test_answer_is_streamed_in_pieces(ask, model):
    parameters = {"temperature": 0} if model == "instant" else {"temperature": 0, **talkative(model, 24)}
    texts = [choice["delta"].get("content") for choice in choices(stream(model, QUESTION, **parameters))]
    pieces = [text for text in texts if text]
    assert len(pieces) > 3
    assert "".join(pieces) == ask(model, QUESTION, **parameters).choices[0].message.content


@pytest.mark.parametrize("attempt", range(5))
def test_stream_helper_of_the_client_assembles_several_choices(client, attempt):
    """The helper needs the first chunks of the choices in the order of their indices."""
    messages = user(QUESTION)
    with client.chat.completions.stream(model=MODEL, messages=messages, n=4, temperature=1, **talkative(MODEL, 8)) as events:
        chunks = [event.chunk for event in events if event.type == "chunk"]
        final = events.current_completion_snapshot
    assert [choice.index for choice in final.choices] == [0, 1, 2, 3]
    for choice in final.choices:
        mine = [c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert choice.message.content == "".join(mine)
        assert choice.finish_reason == "length"


def test_failure_before_the_first_frame_is_an_error_status():
    reply = raw_http.post(PATH, {"model": "absent", "messages": user("hello"), "stream": True})
    assert reply.status == 503
    assert reply.json()["error"]["code"] == "no_replica_ready"


def arrivals(parameters):
    """Returns the arrival time of each frame of a paced answer, in seconds after the first."""
    body = {"model": fleet.PACED, "messages": user("hello"), "stream": True, **parameters}
    request = raw_http.OpenRequest(PATH, body)
    times, seen = [], 0
    while b"data: [DONE]\n\n" not in request.received:
        request.read_frames(seen + 1)
        times += [time.monotonic()] * (request.frames() - seen)
        seen = request.frames()
    request.leave()
    return [moment - times[0] for moment in times]


def test_frames_arrive_one_by_one_as_they_are_generated():
    """Sixty tokens at 50 a second take 1.2 seconds. Buffered frames would arrive all at once."""
    times = arrivals({"max_tokens": 60})
    assert len(times) >= 61
    assert times[-1] > 0.6
    # Each quarter of the time must bring a share of the frames.
    for quarter in range(4):
        start, end = (times[-1] * part / 4 for part in (quarter, quarter + 1))
        share = sum(start <= moment <= end for moment in times)
        assert share >= len(times) / 16, times
    assert len(set(times)) > len(times) / 4, "the frames arrived in bursts"


def test_first_frame_arrives_before_the_answer_is_complete(client):
    start = time.monotonic()
    answer = client.chat.completions.create(model=fleet.PACED, messages=user("hello"), max_tokens=60, stream=True)
    next(iter(answer))
    first = time.monotonic() - start
    for _ in answer:
        pass
    assert first < (time.monotonic() - start) / 2
