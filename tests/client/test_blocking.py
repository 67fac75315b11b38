from pathlib import Path

import pytest

from darkroom import client, errors
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2
from tests import platforms
from tests.journeys import load


def test_the_verbs_work_without_asyncio(platform: platforms.Platform, tmp_path: Path) -> None:
    request = client.image("pocket-image", "a red circle")
    request.image.steps = 1
    with client.Client(platform.connection, api_key=platform.connection.api_key) as darkroom:
        created = darkroom.create(request)
        made = darkroom.generate(request)  # the same request, the same generation
        assert made.generation_id == created.generation_id
        assert made.state == generation_pb2.GENERATION_STATE_SUCCEEDED
        assert darkroom.get(made.generation_id) == darkroom.cancel(made.generation_id) == made
        darkroom.download(made.artifacts[0], tmp_path / "circle.png")
        assert darkroom.charge(made.generation_id, wait_s=load.POSTED_WITHIN_S).state == billing_pb.CHARGE_STATE_POSTED
        assert [model.name for model in darkroom.call(lambda it: it.models())] == ["pocket-image"]
    assert (tmp_path / "circle.png").read_bytes().startswith(b"\x89PNG")


def test_refusals_are_the_same_errors(platform: platforms.Platform) -> None:
    with client.Client(platform.connection, api_key="") as stranger, pytest.raises(errors.Unauthenticated):
        stranger.get("gen_" + "0" * 32)
