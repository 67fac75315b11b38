import pytest
from google.protobuf import json_format

from darkroom.api.scheduler.v1 import model_service_pb2
from darkroom.cli import app, ask
from tests.cli.conftest import Darkroom


def test_list_names_the_models_and_how_many_serve_them(darkroom: Darkroom) -> None:
    header, model = darkroom("models", "list").out.splitlines()
    assert header.split() == ["name", "kind", "family", "runners", "description"]
    assert model.split()[:4] == ["pocket-image", "image", "flux", "1"]
    assert [model["name"] for model in darkroom("models", "list", "--json").json["models"]] == ["pocket-image"]


def test_show_tells_limits_defaults_and_price(darkroom: Darkroom) -> None:
    lines = darkroom("models", "show", "pocket-image").out.splitlines()
    assert lines[0].startswith("pocket-image: ")
    words = [line.split() for line in lines]
    assert ["width", "64", "64", "128", "16"] in words
    assert ["steps", "28", "1", "100"] in words  # a multiple of 1 is any
    assert ["GPU-second", "0.50", "USD"] in [line.split() for line in lines]
    assert darkroom("models", "show", "pocket-image", "--json").json["defaults"]["steps"] == 28


def test_show_tells_extras_with_their_bounds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"properties": {"true_cfg_scale": {"type": "number", "minimum": 1, "maximum": 20}, "style": {}}}
    model = json_format.ParseDict({"extras_schema": schema, "adapters_max": 4}, model_service_pb2.Model())
    monkeypatch.setattr(ask, "tenant", lambda work: model)
    assert app.run(["models", "show", "flux"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "extras style (anything), true_cfg_scale (number from 1 to 20)" in lines
    assert "a prompt of 0 bytes and 4 LoRAs at most" in lines


def test_show_tells_every_digit_of_a_limit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {
        "duration_us": {"min": 100_000, "max": 47_554_000},
        "num_frames": {"min": 5, "max": 81, "multiple_of": 4},
        "guidance_scale": {"min": 0.1, "max": 20},
    }
    model = json_format.ParseDict(
        {"limits": limits, "defaults": {"duration_us": 30_000_000}}, model_service_pb2.Model()
    )
    monkeypatch.setattr(ask, "tenant", lambda work: model)
    assert app.run(["models", "show", "any"]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["duration_us", "30000000", "100000", "47554000"] in words
    assert ["parameter", "default", "least", "most", "in", "steps", "of"] in words
    assert ["num_frames", "5", "81", "4"] in words
    assert ["guidance_scale", "0.1", "20"] in words


def test_show_tells_which_pictures_a_model_takes(darkroom: Darkroom) -> None:
    lines = darkroom("models", "show", "pocket-image").out.splitlines()
    assert "source image optional" in lines
    assert "mask image optional" in lines
    assert darkroom("models", "show", "pocket-image", "--json").json["mask_image"] == "PICTURE_USE_OPTIONAL"


@pytest.mark.parametrize(("use", "line"), [("NONE", "source image not taken"), ("REQUIRED", "source image required")])
def test_show_tells_of_models_that_need_or_refuse_pictures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, use: str, line: str
) -> None:
    model = json_format.ParseDict({"source_image": f"PICTURE_USE_{use}"}, model_service_pb2.Model())
    monkeypatch.setattr(ask, "tenant", lambda work: model)
    assert app.run(["models", "show", "any"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert line in lines
    assert not any(line.startswith("mask image") for line in lines)


def test_a_model_that_is_not_there(darkroom: Darkroom) -> None:
    said = darkroom("models", "show", "gigantic")
    assert said.code == 1
    assert "`darkroom models list` names them" in said.err
