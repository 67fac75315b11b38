import dataclasses

import pytest

from darkroom.api.billing_meter.v1 import billing_service_pb2
from darkroom.cli import home, show
from tests import platforms
from tests.cli.conftest import Darkroom

CATALOGUE = ("--image", "0.0001", "--megapixel", "0.002 USD", "--gpu-second", "0.5")  # pocket-image's own


def test_a_price_is_set_once_a_key(darkroom: Darkroom) -> None:
    words = ("prices", "set", "pocket-image", *CATALOGUE, "--idempotency-key", "again", "--json")
    first, second = darkroom(*words).json, darkroom(*words).json
    assert first == second
    told = {name: value for name, value in first.items() if "nanos" in name}
    assert told == {
        "nanos_per_image": "100000",
        "nanos_per_megapixel": "2000000",
        "nanos_per_gpu_second": "500000000",
    }


def test_what_was_set_is_shown(darkroom: Darkroom) -> None:
    said = darkroom("prices", "set", "pocket-image", *CATALOGUE)
    first, _, *table = said.out.splitlines()
    assert first.startswith("pocket-image from 20")
    assert [line.split() for line in table] == [
        ["unit", "price", "of", "one"],
        ["image", "0.0001", "USD"],
        ["megapixel", "0.002", "USD"],
        ["GPU-second", "0.50", "USD"],
    ]


def test_every_rate_and_the_least_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {"nanos_per_media_second": 20_000_000, "minimum_nanos": 10_000_000}
    show.price(billing_service_pb2.PriceVersion(model="wan", currency="EUR", **rates))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "unit                    price of one",
        "second of media         0.02 EUR",
        "a generation, at least  0.01 EUR",
    ]
    show.price(billing_service_pb2.PriceVersion(model="wan", currency="EUR"))
    assert capsys.readouterr().out == "it costs nothing\n"


@pytest.mark.parametrize("rates", [(), ("--image", "1 EUR", "--gpu-second", "1 USD"), ("--image", "much")])
def test_misuse_sets_nothing(darkroom: Darkroom, rates: tuple[str, ...]) -> None:
    assert darkroom("prices", "set", "pocket-image", *rates).code == 2


def test_a_model_that_never_had_a_price_is_named(darkroom: Darkroom) -> None:
    said = darkroom("prices", "set", "gigantic", "--minimum", "1", "--media-second", "0")
    assert (said.code, said.err) == (
        1,
        "darkroom: model 'gigantic' was not found (`darkroom models list` names them)\n",
    )


def test_a_tenant_may_not(darkroom: Darkroom, platform: platforms.Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = dataclasses.replace(platform.connection, operator_key=platform.connection.api_key)
    monkeypatch.setattr(home, "read_connection", lambda: connection)
    said = darkroom("prices", "set", "pocket-image", *CATALOGUE)
    assert said == (1, "", "darkroom: this call needs the scope 'operator'\n")
