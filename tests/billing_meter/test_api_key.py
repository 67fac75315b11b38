import re

import pytest

from darkroom.billing_meter import api_key


def test_a_new_key_has_256_random_bits_and_a_public_prefix() -> None:
    minted = api_key.mint()
    assert re.fullmatch(r"dk_[0-9a-f]{12}_[0-9a-f]{64}", minted.text)
    assert minted.text.startswith(minted.prefix + "_")
    assert len({api_key.mint().text for _ in range(100)}) == 100


def test_what_is_stored_does_not_hold_the_secret() -> None:
    minted = api_key.mint()
    secret = minted.text.rpartition("_")[2]
    assert len(minted.sha256) == 32
    assert bytes.fromhex(secret) != minted.sha256
    assert secret not in minted.prefix


def test_a_key_matches_its_own_digest_alone() -> None:
    minted = api_key.mint()
    assert api_key.matches(minted.text, minted.sha256)
    assert not api_key.matches(minted.text[:-1] + ("0" if minted.text[-1] != "0" else "1"), minted.sha256)
    assert not api_key.matches(api_key.mint().text, minted.sha256)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dk_",
        "dk_0123456789ab",
        "dk_0123456789ab_" + "0" * 63,
        "dk_0123456789ab_" + "0" * 65,
        "dk_0123456789AB_" + "0" * 64,
        "dk_0123456789ab_" + "0" * 64 + "\n",
        " dk_0123456789ab_" + "0" * 64,
        "pk_0123456789ab_" + "0" * 64,
        "dk_0123456789ab_" + "٠" * 64,
    ],
)
def test_other_texts_have_no_prefix(text: str) -> None:
    assert api_key.prefix_of(text) == ""


def test_prefix_of_a_key() -> None:
    assert api_key.prefix_of("dk_0123456789ab_" + "f" * 64) == "dk_0123456789ab"
