"""The API as instructor sees it."""

import asyncio
from collections.abc import Iterable

import instructor
import openai
import pydantic
import pytest
from instructor import Mode
from instructor.core.exceptions import IncompleteOutputException, InstructorRetryException

import fleet
from clients.shapes import (
    MODEL,
    ORDER,
    PARAMETERS,
    QUESTION,
    UNTRAINED,
    Basket,
    Line,
    Order,
    Tree,
    assert_order_of_a_call,
)
from clients.upstreams import BROKEN_MODES, CALL_MODES, CITIES, ERROR_MODES

MODES = [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON, Mode.JSON_SCHEMA]
SETTINGS = {"base_url": fleet.BASE, "api_key": "none", "max_retries": 0, "timeout": fleet.DEADLINE}


def client(mode=Mode.TOOLS):
    return instructor.from_openai(openai.OpenAI(**SETTINGS), mode=mode)


def asked(shape, model=MODEL, question=QUESTION, **parameters):
    """Returns the parameters of a request for a shape."""
    return {
        "model": model,
        "messages": fleet.user(question),
        "response_model": shape,
        "max_retries": 1,
        **PARAMETERS,
        **parameters,
    }


def assert_order(order, mode):
    """Compares the fields, since the client makes a class of its own of each shape."""
    if mode in (Mode.TOOLS, Mode.TOOLS_STRICT):
        assert_order_of_a_call(order)
    else:
        assert order.model_dump() == ORDER.model_dump()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_order_is_extracted(mode):
    assert_order(client(mode).chat.completions.create(**asked(Order)), mode)


@pytest.mark.parametrize("shape", [Basket, Tree])
@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA], ids=lambda mode: mode.name)
def test_nested_shape_is_filled_in(mode, shape):
    assert isinstance(client(mode).chat.completions.create(**asked(shape)), shape)


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA], ids=lambda mode: mode.name)
def test_partial_shapes_are_streamed(mode):
    parts = list(client(mode).chat.completions.create_partial(**asked(Order)))
    assert parts
    assert Order.model_validate(parts[-1].model_dump()).customer == ORDER.customer


def test_objects_of_a_list_are_streamed():
    """The list's own length is not limited, so that only the first object counts."""
    lines = client().chat.completions.create_iterable(**asked(Line, UNTRAINED, "hello"))
    assert isinstance(next(iter(lines)), Line)


class City(pydantic.BaseModel):
    city: str


@pytest.mark.parametrize("mode", CALL_MODES)
def test_two_calls_of_an_unusual_upstream_are_apart(mode):
    parallel = client(Mode.PARALLEL_TOOLS)
    calls = parallel.chat.completions.create(**asked(Iterable[City], f"fake-{mode}"))
    assert [call.model_dump() for call in calls] == CITIES


@pytest.mark.parametrize("mode", ["tools", "object-arguments", "calls-from-one", "huge-call-index"])
def test_call_of_an_unusual_upstream_is_returned(mode):
    city = client().chat.completions.create(**asked(City, f"fake-{mode}"))
    assert city.city == "Rome"


def test_shapes_are_filled_in_concurrently():
    async def run():
        client = instructor.from_openai(openai.AsyncOpenAI(**SETTINGS), mode=Mode.JSON_SCHEMA)
        return await asyncio.gather(*[client.chat.completions.create(**asked(Order)) for _ in range(4)])

    for order in asyncio.run(run()):
        assert_order(order, Mode.JSON_SCHEMA)


def test_shape_comes_with_the_completion():
    order, completion = client(Mode.JSON_SCHEMA).chat.completions.create_with_completion(**asked(Order))
    assert_order(order, Mode.JSON_SCHEMA)
    assert completion.model == MODEL
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA], ids=lambda mode: mode.name)
def test_answer_that_is_cut_is_reported_as_incomplete(mode):
    with pytest.raises(IncompleteOutputException):
        client(mode).chat.completions.create(**asked(Order, max_tokens=6))


def test_answer_that_does_not_validate_is_asked_for_again():
    """The second request contains the call and why it was not valid."""
    tries = []

    class Checked(Order):
        @pydantic.model_validator(mode="after")
        def fails_once(self):
            tries.append(self.quantity)
            if len(tries) == 1:
                raise ValueError("not this time")
            return self

    order = client().chat.completions.create(**asked(Checked, max_retries=2))
    assert len(tries) == 2
    assert isinstance(order, Checked)


def test_unknown_model_is_not_found():
    with pytest.raises((openai.NotFoundError, InstructorRetryException), match="model_not_found"):
        client().chat.completions.create(**asked(Order, "nowhere"))


def test_wrong_parameter_is_refused_by_name():
    with pytest.raises((openai.BadRequestError, InstructorRetryException), match="temperature"):
        client().chat.completions.create(**asked(Order, temperature=9))


@pytest.mark.parametrize(("mode", "status"), ERROR_MODES.items())
def test_error_of_an_upstream_has_its_status(mode, status):
    with pytest.raises(InstructorRetryException) as caught:
        client().chat.completions.create(**asked(City, f"fake-{mode}"))
    assert f"Error code: {status}" in str(caught.value)


@pytest.mark.parametrize("mode", BROKEN_MODES)
def test_answer_that_breaks_off_is_an_error(mode):
    with pytest.raises(InstructorRetryException) as caught:
        client().chat.completions.create(**asked(City, f"fake-{mode}"))
    assert "Error code: 502" in str(caught.value)
