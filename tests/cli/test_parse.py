import datetime
import pathlib

import click
import pytest

from darkroom import money
from darkroom.cli import parse


@pytest.mark.parametrize(
    ("notation", "text", "value"),
    [
        (parse.SIZE, "64x128", (64, 128)),
        (parse.DURATION, "30s", datetime.timedelta(seconds=30)),
        (parse.DURATION, "500ms", datetime.timedelta(milliseconds=500)),
        (parse.DURATION, "1.5m", datetime.timedelta(seconds=90)),
        (parse.LORA, "lora_" + "a" * 32, ("lora_" + "a" * 32, None)),
        (parse.LORA, "lora_" + "a" * 32 + ":-0.5", ("lora_" + "a" * 32, -0.5)),
        (parse.PICTURE, "med_" + "a" * 32, "med_" + "a" * 32),
        (parse.PICTURE, __file__, pathlib.Path(__file__)),
        (parse.TAG, "campaign=spring=2027", ("campaign", "spring=2027")),
        (parse.EXTRA, "true_cfg_scale=4.5", ("true_cfg_scale", 4.5)),
        (parse.EXTRA, 'parts={"a": [1]}', ("parts", {"a": [1]})),
        (parse.EXTRA, "style=soft", ("style", "soft")),
        (parse.DAY, "2026-11-20", datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)),
        (parse.DAY, "2026-11-20T12:30Z", datetime.datetime(2026, 11, 20, 12, 30, tzinfo=datetime.UTC)),
        (parse.AMOUNT, "12.50 EUR", money.Money(12_500_000_000, "EUR")),
    ],
)
def test_what_is_written_is_read(notation: parse.Notation, text: str, value: object) -> None:
    assert notation.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("notation", "text"),
    [
        (parse.SIZE, "64"),
        (parse.SIZE, "64x"),
        (parse.SIZE, "-64x64"),
        (parse.DURATION, "30"),
        (parse.DURATION, "s"),
        (parse.LORA, "lora_1"),
        (parse.LORA, "lora_" + "a" * 32 + ":much"),
        (parse.PICTURE, "nowhere.png"),
        (parse.TAG, "campaign"),
        (parse.EXTRA, "=1"),
        (parse.DAY, "20.11.2026"),
        (parse.DAY, "2026-13-40"),
        (parse.AMOUNT, "twelve"),
    ],
)
def test_what_is_not_in_the_notation_is_refused_in_one_sentence(notation: parse.Notation, text: str) -> None:
    with pytest.raises(click.UsageError) as refusal:
        notation.convert(text, None, None)
    assert repr(text) in refusal.value.message
    assert "\n" not in refusal.value.message
