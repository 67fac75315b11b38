import datetime

import pytest

from darkroom import page_tokens
from darkroom.media_store import sign

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SIGNER = sign.Signer("s" * 32)
TOKEN = SIGNER.make(tenant_id="ten_a", media_id="med_b", expires_at=NOW + datetime.timedelta(seconds=10))


def test_a_token_holds_until_it_expires() -> None:
    assert SIGNER.read(TOKEN, now=NOW + datetime.timedelta(seconds=9.9)) == ("ten_a", "med_b")
    assert SIGNER.read(TOKEN, now=NOW + datetime.timedelta(seconds=10)) is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b",
        "é" * 9,
        TOKEN[:-1],
        TOKEN[1:],
        TOKEN + "a" * 10_000,
        sign.Signer("t" * 32).make(tenant_id="ten_a", media_id="med_b", expires_at=NOW.replace(year=2027)),
        page_tokens.PageTokens("s" * 32).make("ListLoras/ten_a/", position="p"),
    ],
)
def test_a_forged_token_is_nothing(token: str) -> None:
    assert SIGNER.read(token, now=NOW) is None
