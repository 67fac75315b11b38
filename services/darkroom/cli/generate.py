"""`darkroom generate`: a prompt in; the file, the picture, the reasons, the times and the bill out.

`options` are turned into one request; `follow` shows its progress, and `report` what came of it. `demo` uses the same two.
"""

import datetime
import pathlib
import uuid
from typing import Any, NamedTuple

import click

from darkroom import client
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.scheduler.v1 import model_service_pb2 as model_pb
from darkroom.api.types.v1 import inputs_pb2, media_pb2
from darkroom.cli import ask, parse, show

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "video/mp4": "mp4", "audio/flac": "flac"}
PICTURE_BYTES_MAX = 256 << 10  # what a request carries itself
PICTURES = ("source", "mask")
POSTING_WAIT_S = 5.0  # the relay posts a charge within a fraction of a second; after this it is shown as PENDING


class _Kind(NamedTuple):
    """What a kind of model makes, its request's field and message, and the flags of its own."""

    name: str
    field: str
    message: Any
    flags: frozenset[str]


_KINDS = {
    model_pb.MODEL_KIND_IMAGE: _Kind(
        "images", "image", inputs_pb2.ImageInput, frozenset({"size", "num-images", "source", "mask", "strength"})
    ),
    model_pb.MODEL_KIND_VIDEO: _Kind(
        "videos", "video", inputs_pb2.VideoInput, frozenset({"size", "frames", "fps", "source"})
    ),
    model_pb.MODEL_KIND_AUDIO: _Kind("audio", "audio", inputs_pb2.AudioInput, frozenset({"length"})),
}


class Result(NamedTuple):
    """What came of a generation: its end, its files, why it ran where it ran, and its bill."""

    generation: generation_pb.Generation
    paths: list[pathlib.Path]
    explanation: service_pb.ExplainGenerationResponse
    charge: billing_pb.Charge


@click.command()
@click.argument("model")
@click.option("--prompt", required=True, help="What it shows.")
@click.option("--negative-prompt", default="", help="What it must not show.")
@click.option("--size", type=parse.SIZE, help="WIDTHxHEIGHT in pixels; the model's default if not given.")
@click.option("--steps", type=click.IntRange(min=1), help="Denoising steps.")
@click.option("--guidance", type=float, help="Guidance scale; 1 turns guidance off.")
@click.option("--seed", type=click.IntRange(0, 2**62), help="Seed of the first image; drawn if not given.")
@click.option("--num-images", type=click.IntRange(min=1), help="Images to make; each is charged.")
@click.option("--frames", type=click.IntRange(min=1), help="Frames of a video.")
@click.option("--fps", type=click.IntRange(min=1), help="Frames per second of a video.")
@click.option("--length", type=parse.DURATION, help="How long a sound is, such as 30s.")
@click.option("--source", type=parse.PICTURE, help="Picture to start from or to edit: a file, or an artifact's id.")
@click.option("--mask", type=parse.PICTURE, help="Picture of where to edit the source: white is painted anew.")
@click.option("--strength", type=float, help="How far to leave the source, above 0 up to 1.")
@click.option(
    "--quality", type=click.Choice(["lossless", "high", "draft"]), help="Faithfulness against time and price."
)
@click.option("--sampler", help="One of the model's samplers; its own if not given.")
@click.option("--lora", "loras", type=parse.LORA, multiple=True, help="ID[:SCALE]; may be given several times.")
@click.option("--priority", type=click.Choice(["interactive", "standard", "batch"]), default="standard")
@click.option("--deadline", type=parse.DURATION, help="Such as 30s or 5m; after it the result is worthless.")
@click.option("--extra", "extras", type=parse.EXTRA, multiple=True, help="A parameter of the model's own, KEY=VALUE.")
@click.option(
    "--tag", "tags", type=parse.TAG, multiple=True, help="A label of your own, KEY=VALUE; reported with the bill."
)
@click.option("--idempotency-key", default="", help="The same key never makes or charges twice.")
@click.option(
    "--out", type=click.Path(path_type=pathlib.Path, file_okay=False), default=".", help="Folder for the files."
)
@click.option("--estimate", "only_estimate", is_flag=True, help="Tell what it would take, and make nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def generate(**options: Any) -> None:
    """Make media from a prompt, and show it with its reasons, times and bill."""
    request = ask.tenant(lambda darkroom: request_for(darkroom, options))
    if options["only_estimate"]:
        show.estimate(ask.tenant(lambda darkroom: darkroom.estimate(request)), as_json_=options["as_json"])
        return
    out: pathlib.Path = options["out"]
    out.mkdir(parents=True, exist_ok=True)
    result = ask.tenant(lambda darkroom: carry_out(darkroom, request, out))
    report(result, as_json=options["as_json"])
    if result.generation.state != generation_pb.GENERATION_STATE_SUCCEEDED:
        raise click.exceptions.Exit(1)


async def request_for(darkroom: client.AsyncClient, options: dict[str, Any]) -> service_pb.CreateGenerationRequest:
    """The options as a request for what their model makes; pictures too large for a request are put into media_store."""
    kind = (await darkroom.model(options["model"])).kind
    request_of(
        options | {flag: options[flag] and media_pb2.MediaRef() for flag in PICTURES}, kind
    )  # misuse, said first
    sent = {flag: options[flag] and await _sent(darkroom, options[flag]) for flag in PICTURES}
    return request_of(options | sent, kind)


async def _sent(darkroom: client.AsyncClient, picture: str | pathlib.Path) -> media_pb2.MediaRef:
    if isinstance(picture, str):
        return media_pb2.MediaRef(media_id=picture)
    if picture.stat().st_size > PICTURE_BYTES_MAX:
        return await darkroom.put_media(picture)
    return media_pb2.MediaRef(inline=picture.read_bytes())


def request_of(
    options: dict[str, Any], kind: "model_pb.ModelKind.ValueType" = model_pb.MODEL_KIND_IMAGE
) -> service_pb.CreateGenerationRequest:
    """The options as a request for what the model makes; what was not given is left to the model's defaults."""
    made = _KINDS[kind]
    own = _own(options)
    for flag in own:
        if flag not in made.flags:
            raise click.UsageError(f"--{flag} is of no use: {options['model']} makes {made.name}")
    wanted = made.message(
        prompt=options["prompt"],
        negative_prompt=options["negative_prompt"],
        steps=options["steps"],
        guidance_scale=options["guidance"],
        seed=options["seed"],
        sampler=options["sampler"],
        quality=media_pb2.QualityTier.Value(f"QUALITY_TIER_{(options['quality'] or 'unspecified').upper()}"),
        extras=dict(options["extras"]) or None,
        adapters=[inputs_pb2.AdapterRef(adapter_id=adapter_id, scale=scale) for adapter_id, scale in options["loras"]],
        **{name: value for fields in own.values() for name, value in fields.items()},
    )
    return service_pb.CreateGenerationRequest(
        model=options["model"],
        priority=inputs_pb2.Priority.Value(f"PRIORITY_{options['priority'].upper()}"),
        deadline=options["deadline"],
        idempotency_key=options["idempotency_key"] or uuid.uuid4().hex,
        tags=dict(options["tags"]),
        **{made.field: wanted},
    )


def _own(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of each given flag that not all kinds of media have."""
    width, height = options["size"] or (None, None)
    length: datetime.timedelta | None = options["length"]
    fields: dict[str, dict[str, Any]] = {
        "size": {"width": width, "height": height},
        "num-images": {"num_images": options["num_images"]},
        "frames": {"num_frames": options["frames"]},
        "fps": {"frames_per_second": options["fps"]},
        "length": {"duration_us": length and length // datetime.timedelta(microseconds=1)},
        "source": {"source_image": options["source"]},
        "mask": {"mask_image": options["mask"]},
        "strength": {"strength": options["strength"]},
    }
    return {flag: own for flag, own in fields.items() if None not in own.values()}


async def carry_out(
    darkroom: client.AsyncClient, request: service_pb.CreateGenerationRequest, out: pathlib.Path
) -> Result:
    """Send the request, show its progress, fetch its files, its reasons and its bill."""
    generation = await follow(darkroom, await darkroom.create(request))
    paths = await fetch(darkroom, generation, out)
    explanation = await darkroom.explain(generation.generation_id)
    return Result(
        generation, paths, explanation, await darkroom.charge(generation.generation_id, wait_s=POSTING_WAIT_S)
    )


async def fetch(
    darkroom: client.AsyncClient, generation: generation_pb.Generation, out: pathlib.Path
) -> list[pathlib.Path]:
    """Fetch a generation's files into a folder; their paths, in the order of its artifacts."""
    paths = [
        out / f"{generation.generation_id}-{i}.{extension(a.media_type)}" for i, a in enumerate(generation.artifacts)
    ]
    for artifact, path in zip(generation.artifacts, paths, strict=True):
        await darkroom.download(artifact, path)
    return paths


async def follow(darkroom: client.AsyncClient, generation: generation_pb.Generation) -> generation_pb.Generation:
    """Watch a generation to its end under a progress bar; Ctrl-C stops watching, not the generation."""
    with show.bar() as bar:
        task = bar.add_task(show.state_name(generation.state).lower(), total=max(1, generation.steps_total))
        async for change in darkroom.watch(generation.generation_id):
            generation = change
            done = change.steps_total if change.state == generation_pb.GENERATION_STATE_SUCCEEDED else change.steps_done
            bar.update(task, description=show.state_name(change.state).lower(), completed=done)
    return generation


def report(result: Result, *, as_json: bool) -> None:
    """Print what came of a generation."""
    generation = result.generation
    if as_json:
        show.as_json(
            {
                "generation": show.as_dict(generation),
                "paths": [str(path.resolve()) for path in result.paths],
                "explanation": show.as_dict(result.explanation),
                "charge": show.as_dict(result.charge),
            }
        )
        return
    for path, artifact in zip(result.paths, generation.artifacts, strict=True):
        if artifact.media_type.startswith("image/"):
            show.picture(path)
    click.echo(f"{generation.generation_id}  {show.state_name(generation.state)}")
    if generation.HasField("error"):
        click.echo(f"{generation.error.reason}: {generation.error.message}", err=True)
    for path, artifact in zip(result.paths, generation.artifacts, strict=True):
        click.echo(f"{path.resolve()}  ({show.made(artifact)})")
    show.heading("why there")
    show.decisions(result.explanation, brief=True)
    show.heading("time")
    show.stages(generation)
    show.heading("bill")
    show.bill(result.charge)


def extension(media_type: str) -> str:
    """The file name's ending for a type."""
    return EXTENSIONS.get(media_type, "bin")
