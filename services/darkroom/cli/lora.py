"""`darkroom lora push | list | show | pull | delete`: the tenant's adapters."""

import pathlib

import click

from darkroom.api.lora_store.v1 import lora_service_pb2 as lora_pb
from darkroom.cli import ask, show

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
FILE = click.Path(path_type=pathlib.Path, exists=True, dir_okay=False)
COLUMNS = ("id", "name", "base model", "rank", "pairs", "dtype", "bytes", "age")


@click.group()
def lora() -> None:
    """Keep LoRA adapters."""


@lora.command()
@click.argument("path", type=FILE, metavar="FILE")
@click.option("--name", help="Your name for it; the file's if not given.")
@click.option("--base-model", required=True, help="The model it was made for.")
@AS_JSON
def push(path: pathlib.Path, name: str | None, base_model: str, as_json: bool) -> None:
    """Upload an adapter (safetensors)."""
    answer = ask.tenant(lambda darkroom: darkroom.push_lora(path, name=name or path.stem, base_model=base_model))
    if as_json:
        show.as_json(answer)
        return
    click.echo(answer.lora.adapter_id)
    known = "uploaded" if answer.created else "these bytes were there already"
    click.echo(f"{known}; use it with: darkroom generate {base_model} --lora {answer.lora.adapter_id} …", err=True)


@lora.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List adapters, newest first."""
    loras = ask.tenant(lambda darkroom: darkroom.loras())
    if as_json:
        show.as_json({"loras": [show.as_dict(item) for item in loras]})
    else:
        show.rows(COLUMNS, (_line(item) for item in loras), none="there are none: `darkroom lora push` uploads one")


@lora.command("show")
@click.argument("adapter_id", metavar="ID")
@AS_JSON
def show_(adapter_id: str, as_json: bool) -> None:
    """Show one adapter."""
    item = ask.tenant(lambda darkroom: darkroom.lora(adapter_id))
    if as_json:
        show.as_json(item)
        return
    show.rows(COLUMNS, [_line(item)])
    click.echo(f"sha256 {item.sha256}")


@lora.command()
@click.argument("adapter_id", metavar="ID")
@click.option("--out", type=click.Path(path_type=pathlib.Path), help="File to write; NAME.safetensors if not given.")
@AS_JSON
def pull(adapter_id: str, out: pathlib.Path | None, as_json: bool) -> None:
    """Download an adapter."""
    item = ask.tenant(lambda darkroom: darkroom.lora(adapter_id))
    path = out or pathlib.Path(f"{item.name}.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    ask.tenant(lambda darkroom: darkroom.pull_lora(adapter_id, path))
    if as_json:
        show.as_json({"lora": show.as_dict(item), "path": str(path.resolve())})
    else:
        click.echo(path)


@lora.command()
@click.argument("adapter_id", metavar="ID")
@AS_JSON
def delete(adapter_id: str, as_json: bool) -> None:
    """Delete an adapter."""
    ask.tenant(lambda darkroom: darkroom.delete_lora(adapter_id))
    if as_json:
        show.as_json({"deleted": adapter_id})
    else:
        click.echo(f"deleted {adapter_id}")


def _line(item: lora_pb.Lora) -> tuple[object, ...]:
    age = show.ago(item.created_at)
    return (item.adapter_id, item.name, item.base_model, item.rank, item.pairs, item.dtype, item.size_bytes, age)
