import pytest

from darkroom import settings
from darkroom.media_store import config

GOOD = {
    "DARKROOM_DATABASE_URL": "postgresql://u:p@127.0.0.1/x",
    "DARKROOM_BILLING_METER_ADDRESS": "127.0.0.1:1",
    "DARKROOM_SERVICE_SECRET": "s" * 32,
    "DARKROOM_BLOB_URL": "file:///tmp/x",
}


def test_signed_urls_must_be_reachable() -> None:
    assert settings.load(config.Config, GOOD).public_url == ""
    outside = {**GOOD, "DARKROOM_HTTP_ADDRESS": "0.0.0.0:8080"}
    with pytest.raises(settings.SettingsError, match="DARKROOM_PUBLIC_URL"):
        settings.load(config.Config, outside)
    settings.load(config.Config, {**outside, "DARKROOM_PUBLIC_URL": "https://media.example.com"})
    settings.load(config.Config, {**outside, "DARKROOM_BLOB_URL": "s3://bucket"})  # whose own URLs are given


def test_secrets_are_not_shown() -> None:
    shown = repr(settings.load(config.Config, GOOD))
    assert "s" * 32 not in shown
    assert "u:p" not in shown
