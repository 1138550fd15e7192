"""Shapes that clients ask for, with the answers that the demo model `extract` gives.

Objects are closed and texts bounded, so that a model that was never trained on a shape still ends it.
"""

import enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MODEL = "extract"
# Not trained on JSON: what it answers matches a shape, and means nothing.
UNTRAINED = "support-intent"
QUESTION = "maria smith ordered 3 red lamps"
PARAMETERS = {"temperature": 0, "max_tokens": 300}


class Closed(BaseModel):
    """An object without further fields."""

    model_config = ConfigDict(extra="forbid")


class Order(Closed):
    """The object that `extract` was trained to answer an order with."""

    type: Literal["order"]
    item: str = Field(max_length=20)
    quantity: int = Field(ge=1, le=999)
    customer: str = Field(max_length=20)


ORDER = Order(type="order", item="red lamps", quantity=3, customer="maria smith")


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


class Line(Closed):
    colour: Colour
    price: float = Field(ge=0, le=100, multiple_of=0.5)
    note: str | None = Field(max_length=8)


class Basket(Closed):
    """Objects within lists within an object, with a choice, a limited number and a value that may be null."""

    orders: list[Order] = Field(min_length=1, max_length=2)
    lines: list[Line] = Field(min_length=1, max_length=2)
    paid: bool


class Tree(Closed):
    """An object that contains itself."""

    colour: Colour
    parts: list["Tree"] = Field(max_length=2)


def assert_order_of_a_call(order):
    """Checks an order from the arguments of a call, which `extract` was not trained on: it misses the item."""
    assert isinstance(order, Order), order
    assert (order.quantity, order.customer) == (ORDER.quantity, ORDER.customer)
