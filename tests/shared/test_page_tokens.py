import pytest

from darkroom import errors, page_tokens

TOKENS = page_tokens.PageTokens("s" * 32)
SCOPE = "ListLoras/ten_a/"


def test_a_token_gives_its_position_back() -> None:
    assert TOKENS.read("page_token", TOKENS.make(SCOPE, position="lora_é\n7"), SCOPE) == "lora_é\n7"


def test_no_token_is_the_first_page() -> None:
    assert TOKENS.read("page_token", "", SCOPE) == ""


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "\x00",
        "é" * 10,
        "a" * 100_000,
        TOKENS.make(SCOPE, position="p")[:-1],
        "x" + TOKENS.make(SCOPE, position="p"),
        TOKENS.make("ListLoras/ten_b/", position="p"),
        page_tokens.PageTokens("t" * 32).make(SCOPE, position="p"),
    ],
)
def test_a_forged_or_foreign_token_is_refused_by_field(token: str) -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        TOKENS.read("page_token", token, SCOPE)
    assert [violation.field for violation in refusal.value.violations] == ["page_token"]
