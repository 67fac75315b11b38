"""`darkroom keys create | list | revoke`: API keys (operators)."""

import click

from darkroom.api.billing_meter.v1 import account_service_pb2 as account_pb
from darkroom.cli import ask, show

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
COLUMNS = ("id", "name", "prefix", "age", "state", "scopes")


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.argument("tenant_id", metavar="TENANT")
@click.option("--name", default="default", show_default=True, help="What it is for.")
@click.option("--scope", "scopes", multiple=True, help="What it may do; every tenant scope if not given.")
@AS_JSON
def create(tenant_id: str, name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a key; its secret is shown this once."""
    key, api_key = ask.operator(lambda darkroom: darkroom.create_key(tenant_id=tenant_id, name=name, scopes=scopes))
    if as_json:
        show.as_json({"key": show.as_dict(key), "api_key": api_key})
        return
    click.echo(api_key)
    click.echo(f"{key.key_id}: keep the line above, it is not shown again", err=True)


@keys.command("list")
@click.argument("tenant_id", metavar="TENANT")
@AS_JSON
def list_(tenant_id: str, as_json: bool) -> None:
    """List a tenant's keys, newest first."""
    found = ask.operator(lambda darkroom: darkroom.list_keys(tenant_id=tenant_id))
    if as_json:
        show.as_json({"keys": [show.as_dict(key) for key in found]})
    else:
        show.rows(
            COLUMNS, (_line(key) for key in found), none="it has none: `darkroom keys create` makes one", wrap="scopes"
        )


@keys.command()
@click.argument("key_id", metavar="KEY")
@AS_JSON
def revoke(key_id: str, as_json: bool) -> None:
    """End a key everywhere within 5 s."""
    key = ask.operator(lambda darkroom: darkroom.revoke_key(key_id=key_id))
    if as_json:
        show.as_json(key)
    else:
        show.rows(COLUMNS, [_line(key)], wrap="scopes")


def _line(key: account_pb.Key) -> tuple[object, ...]:
    state = f"until {show.moment(key.expires_at)}" if key.HasField("expires_at") else "live"
    if key.HasField("revoked_at"):
        state = f"revoked {show.ago(key.revoked_at)} ago"
    return (key.key_id, key.name, key.prefix, show.ago(key.created_at), state, " ".join(key.scopes))
