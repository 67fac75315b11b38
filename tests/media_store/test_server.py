import dataclasses
import pathlib

import pytest

from darkroom import settings
from darkroom.media_store import config, server


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"http_address": "nowhere", "public_url": "http://x"}, "DARKROOM_HTTP_ADDRESS"),
        ({"http_address": "192.0.2.1:80", "public_url": "http://x"}, "DARKROOM_HTTP_ADDRESS"),
        ({"blob_url": "floppy:///a"}, "DARKROOM_BLOB_URL"),
        ({"blob_url": "/a/path"}, "DARKROOM_BLOB_URL"),
    ],
)
async def test_a_wrong_setting_is_named(
    database_url: str, service_secret: str, tmp_path: pathlib.Path, changes: dict[str, str], variable: str
) -> None:
    good = config.Config(
        database_url=database_url,
        service_secret=service_secret,
        billing_meter_address="127.0.0.1:1",
        blob_url=f"file://{tmp_path}",
    )
    with pytest.raises(settings.SettingsError, match=variable):
        await server.serve(dataclasses.replace(good, **changes))
