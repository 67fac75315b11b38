"""`darkroom models list | show`: the catalogue."""

from typing import Any

import click

from darkroom.api.scheduler.v1 import model_service_pb2 as model_pb
from darkroom.cli import ask, show

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

_PICTURE_USES = {
    model_pb.PICTURE_USE_NONE: "not taken",
    model_pb.PICTURE_USE_OPTIONAL: "optional",
    model_pb.PICTURE_USE_REQUIRED: "required",
}


@click.group()
def models() -> None:
    """Look at the catalogue."""


@models.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List the models."""
    found = ask.tenant(lambda darkroom: darkroom.models())
    if as_json:
        show.as_json({"models": [show.as_dict(model) for model in found]})
        return
    columns = ("name", "kind", "family", "runners", "description")
    lines = ((m.name, _kind(m), m.family, m.runners, m.description) for m in found)
    show.rows(columns, lines, none="the catalogue is empty: DARKROOM_CATALOG_DIR says where it is", wrap="description")


@models.command("show")
@click.argument("name", metavar="MODEL")
@AS_JSON
def show_(name: str, as_json: bool) -> None:
    """Show one model: limits, defaults, price."""
    model = ask.tenant(lambda darkroom: darkroom.model(name))
    if as_json:
        show.as_json(model)
        return
    click.echo(f"{model.name}: {model.description}")
    click.echo(
        f"{_kind(model)}, family {model.family}, licence {model.license}; {model.runners} runner(s) serve it now"
    )
    click.echo(f"revision {model.revision}\n")
    names = sorted({*model.limits, *model.defaults})
    show.rows(("parameter", "default", "least", "most", "in steps of"), (_limits(model, name) for name in names))
    if model.samplers:
        click.echo(f"\nsamplers {', '.join(model.samplers)}")
    click.echo(f"quality tiers {', '.join(show.tier_name(tier) for tier in model.qualities)}")
    click.echo(f"a prompt of {model.prompt_bytes_max} bytes and {model.adapters_max} LoRAs at most")
    for name, use in (("source image", model.source_image), ("mask image", model.mask_image)):
        if use in _PICTURE_USES:
            click.echo(f"{name} {_PICTURE_USES[use]}")
    extras = show.as_dict(model.extras_schema).get("properties", {})
    if extras:
        click.echo(f"extras {', '.join(f'{name} ({_extra(schema)})' for name, schema in sorted(extras.items()))}")
    click.echo("")
    show.price(model.price)


def _kind(model: model_pb.Model) -> str:
    return model_pb.ModelKind.Name(model.kind).removeprefix("MODEL_KIND_").lower()


def _extra(schema: dict[str, Any]) -> str:
    """What an extra may be: its type and bounds, as its JSON Schema has them."""
    parts = (f"{word} {schema[name]:g}" for word, name in (("from", "minimum"), ("to", "maximum")) if name in schema)
    return " ".join([str(schema.get("type", "anything")), *parts])


def _limits(model: model_pb.Model, name: str) -> tuple[str, ...]:
    default = _number(model.defaults[name]) if name in model.defaults else ""
    if name not in model.limits:
        return (name, default, "", "", "")
    limit = model.limits[name]
    step = _number(limit.multiple_of) if limit.multiple_of > 1 else ""
    return (name, default, _number(limit.min), _number(limit.max), step)


def _number(value: float) -> str:
    """Every digit of it: `g` alone would round a length in microseconds, and write it with an exponent."""
    return f"{value:.15g}"
