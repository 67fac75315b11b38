"""What the tables of bad input are made of."""

from typing import NamedTuple

from google.protobuf import duration_pb2, message

from darkroom.api.types.v1 import money_pb2

ADAPTER, TENANT = "lora_" + "a" * 32, "ten_" + "a" * 32


class Bad(NamedTuple):
    """A call by a kind of caller, and a field that its refusal must name."""

    who: str
    method: str
    sent: tuple[message.Message, ...]
    field: str


def one(who: str, method: str, request: message.Message, field: str) -> Bad:
    return Bad(who, method, (request,), field)


def seconds(value: int, nanos: int = 0) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=value, nanos=nanos)


def usd(nanos: int) -> money_pb2.Money:
    return money_pb2.Money(currency="USD", nanos=nanos)
