"""A prompt becomes a picture and a bill, through the command."""

import datetime
import hashlib
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from darkroom import catalog
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb2
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb2
from darkroom.api.types.v1 import media_pb2
from darkroom.cli import generate as cli_generate
from darkroom.cli import show
from darkroom.model_runner.pocket import judge
from tests.cli.conftest import QUICK, Darkroom

PROMPT = "a red circle left of a blue square on a white background"
SLACK_US = 2_000_000  # between stages: messages, commits, the wait for a batch's step, on a busy machine


def generate(darkroom: Darkroom, out: Path, *words: str) -> Any:
    said = darkroom("generate", "pocket-image", "--prompt", PROMPT, *QUICK, *words, "--out", str(out), "--json")
    return said.json


def test_a_prompt_becomes_the_picture_it_says(darkroom: Darkroom, tmp_path: Path) -> None:
    said = darkroom("generate", "pocket-image", "--prompt", PROMPT, "--seed", "0", "--out", str(tmp_path), "--json")
    with PIL.Image.open(said.json["paths"][0]) as image:
        assert (image.format, image.size) == ("PNG", (64, 64))
        assert judge.judge(PROMPT, image).ok


def test_the_file_is_the_artifact_and_the_bill_is_usage_times_price(
    darkroom: Darkroom, picture: dict[str, Any]
) -> None:
    generation, charge = picture["generation"], picture["charge"]
    [path], [artifact] = picture["paths"], generation["artifacts"]
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == artifact["sha256"]
    assert (generation["state"], artifact["media_type"], artifact["seed"]) == (
        "GENERATION_STATE_SUCCEEDED",
        "image/png",
        "7",
    )
    assert (charge["state"], charge["usage"]) == ("CHARGE_STATE_POSTED", generation["usage"])
    price = darkroom("models", "show", "pocket-image", "--json").json["price"]
    meters = {"image": "nanos_per_image", "megapixel": "nanos_per_megapixel", "gpu_second": "nanos_per_gpu_second"}
    for line in charge["lines"]:
        if line["meter"] in meters:
            assert line["unit_price_nanos"] == price[meters[line["meter"]]]
            due = float(line["quantity"]) * int(line["unit_price_nanos"])
            assert abs(int(line["amount_nanos"]) - due) <= 0.51
    assert int(charge["amount"]["nanos"]) == sum(int(line["amount_nanos"]) for line in charge["lines"])
    assert int(charge["amount"]["nanos"]) <= int(generation["estimate"]["nanos"])
    assert generation["usage"]["steps"] == "2"
    assert generation["usage"]["pixels"] == "4096"


def test_the_stages_add_up_to_the_time_it_took(picture: dict[str, Any]) -> None:
    generation = picture["generation"]
    begin, end = (_us(generation[name]) for name in ("created_at", "finished_at"))
    spent = sum(int(value) for value in generation["stages"].values())
    assert 0 < spent <= end - begin
    assert end - begin - spent < SLACK_US + 0.2 * spent


def test_people_are_shown_everything(darkroom: Darkroom, tmp_path: Path) -> None:
    said = darkroom("generate", "pocket-image", "--prompt", PROMPT, *QUICK, "--out", str(tmp_path))
    assert said.code == 0, said.err
    [path] = tmp_path.glob("*.png")
    for part in (
        str(path),
        "SUCCEEDED",
        "why there",
        "attempt 1",
        "time",
        "denoise",
        "bill",
        "GPU-seconds",
        "total",
        "POSTED",
    ):
        assert part in said.out, part
    assert "2/2 steps" in said.err


def test_the_same_key_makes_and_charges_once(newcomer: Darkroom, tmp_path: Path) -> None:
    first = generate(newcomer, tmp_path, "--idempotency-key", "once", "--seed", "5")
    before = newcomer("billing", "balance", "--json").json
    again = generate(newcomer, tmp_path, "--idempotency-key", "once", "--seed", "5")
    assert again["generation"] == first["generation"]
    assert again["charge"] == first["charge"]
    assert newcomer("billing", "balance", "--json").json["balance"] == before["balance"]
    other = newcomer(
        "generate", "pocket-image", "--prompt", "another", "--idempotency-key", "once", "--out", str(tmp_path)
    )
    assert other.code == 1
    assert "idempotency_key" in other.err
    assert other.err.strip().count("\n") == 0


def test_a_seed_makes_the_same_picture_again_and_each_image_its_own(darkroom: Darkroom, tmp_path: Path) -> None:
    both = generate(darkroom, tmp_path, "--seed", "11", "--num-images", "2")
    second = generate(darkroom, tmp_path, "--seed", "12")
    one, two = (Path(path).read_bytes() for path in both["paths"])
    assert one != two
    assert _pixels(second["paths"][0]) == pytest.approx(_pixels(both["paths"][1]), abs=1)
    assert both["generation"]["usage"]["images"] == "2"


def test_an_adapter_changes_the_picture(darkroom: Darkroom, tmp_path: Path) -> None:
    path = tmp_path / "strong.safetensors"
    path.write_bytes(strong_adapter())
    pushed = darkroom("lora", "push", str(path), "--base-model", "pocket-image", "--json").json
    adapter_id = pushed["lora"]["adapter_id"]
    plain = generate(darkroom, tmp_path, "--seed", "3")
    changed = generate(darkroom, tmp_path, "--seed", "3", "--lora", f"{adapter_id}:1.5")
    off = generate(darkroom, tmp_path, "--seed", "3", "--lora", f"{adapter_id}:0")
    assert _pixels(off["paths"][0]) == pytest.approx(_pixels(plain["paths"][0]), abs=1)
    assert _pixels(changed["paths"][0]) != pytest.approx(_pixels(plain["paths"][0]), abs=8)
    assert int(changed["generation"]["stages"]["adapters_us"]) > 0
    missing = darkroom(
        "generate", "pocket-image", "--prompt", PROMPT, "--lora", "lora_" + "f" * 32, "--out", str(tmp_path)
    )
    assert missing.code == 1
    assert "lora" in missing.err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--size", "63x64"), "image.width"),
        (("--steps", "100000"), "image.steps"),
        (("--guidance", "nan"), "image.guidance_scale"),
        (("--prompt", ""), "image.prompt"),
        (("--deadline", "1ms"), "deadline"),
    ],
)
def test_a_refusal_is_one_sentence_that_names_the_field(
    darkroom: Darkroom, tmp_path: Path, words: tuple[str, ...], part: str
) -> None:
    said = darkroom("generate", "pocket-image", "--prompt", "x", *words, "--out", str(tmp_path))
    assert said.code == 1
    assert part in said.err
    assert "Traceback" not in said.err
    assert said.err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def strong_adapter() -> bytes:
    """A LoRA of rank 1 on the last linear layers of the packaged model's transformer."""
    stated = os.environ.get("DARKROOM_CATALOG_DIR")
    entry = catalog.load(Path(stated or Path(catalog.__file__).parent / "models"))["pocket-image"]
    weights = (entry.directory / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + struct.unpack("<Q", weights[:8])[0]])
    shapes = {
        name.removesuffix(".weight"): tensor["shape"]
        for name, tensor in header.items()
        if name.endswith("proj_out.weight") and len(tensor["shape"]) == 2
    }
    parts, data, draw = {}, b"", random.Random(0)
    for name, (rows, columns) in shapes.items():
        for part, shape in (("lora_A", (1, columns)), ("lora_B", (rows, 1))):
            count = shape[0] * shape[1]
            numbers = struct.pack(f"<{count}f", *(draw.gauss(0, 1) for _ in range(count)))
            offsets = [len(data), len(data) + len(numbers)]
            parts[f"transformer.{name}.{part}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
            data += numbers
    text = json.dumps(parts).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _pixels(path: str) -> list[int]:
    with PIL.Image.open(path) as image:
        return list(image.convert("RGB").tobytes())


def _us(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1e6)


def test_a_video_and_a_sound_are_told_but_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "picture", lambda path: pytest.fail(f"{path} was drawn"))
    artifacts = [
        media_pb2.Artifact(media_type="video/mp4", width=832, height=480, duration_us=5_000_000),
        media_pb2.Artifact(media_type="audio/flac", duration_us=30_000_000),
    ]
    result = cli_generate.Result(
        generation_pb2.Generation(artifacts=artifacts),
        [tmp_path / "a.mp4", tmp_path / "a.flac"],
        service_pb2.ExplainGenerationResponse(),
        billing_pb2.Charge(),
    )
    cli_generate.report(result, as_json=False)
    told = capsys.readouterr().out
    assert f"{tmp_path / 'a.mp4'}  (832x480, 5.00 s, seed 0)\n" in told
    assert f"{tmp_path / 'a.flac'}  (30.00 s, seed 0)\n" in told
