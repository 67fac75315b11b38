"""`darkroom tenants create | list | credit`: who pays (operators)."""

import uuid

import click

from darkroom import money
from darkroom.api.billing_meter.v1 import account_service_pb2 as account_pb
from darkroom.api.types.v1 import money_pb2
from darkroom.cli import ask, parse, show

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
KEY = click.option("--idempotency-key", default="", help="The same key does it once.")
COLUMNS = ("id", "name", "balance", "held", "age")


@click.group()
def tenants() -> None:
    """Make tenants and give them credit."""


@tenants.command()
@click.argument("name")
@click.option("--credit", type=parse.AMOUNT, default="0", help="Prepaid credit, such as 12.50 or 12.50 USD.")
@KEY
@AS_JSON
def create(name: str, credit: money.Money, idempotency_key: str, as_json: bool) -> None:
    """Make a tenant."""
    key = idempotency_key or uuid.uuid4().hex
    _show(
        ask.operator(lambda darkroom: darkroom.create_tenant(name=name, credit=credit, idempotency_key=key)),
        as_json=as_json,
    )


@tenants.command()
@click.argument("tenant_id", metavar="TENANT")
@click.argument("amount", type=parse.AMOUNT)
@KEY
@AS_JSON
def credit(tenant_id: str, amount: money.Money, idempotency_key: str, as_json: bool) -> None:
    """Add prepaid credit to a tenant."""
    request = account_pb.AddCreditRequest(
        tenant_id=tenant_id,
        amount=money_pb2.Money(currency=amount.currency, nanos=amount.nanos),
        idempotency_key=idempotency_key or uuid.uuid4().hex,
    )
    _show(ask.operator(lambda darkroom: darkroom.add_credit(request)), as_json=as_json)


@tenants.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List tenants, the first 200 by id."""
    found = ask.operator(lambda darkroom: darkroom.tenants())
    if as_json:
        show.as_json({"tenants": [show.as_dict(tenant) for tenant in found]})
    else:
        show.rows(COLUMNS, (_line(tenant) for tenant in found))


def _show(tenant: account_pb.Tenant, *, as_json: bool) -> None:
    if as_json:
        show.as_json(tenant)
    else:
        show.rows(COLUMNS, [_line(tenant)])


def _line(tenant: account_pb.Tenant) -> tuple[object, ...]:
    money_left = (show.amount(tenant.balance), show.amount(tenant.held))
    return (tenant.tenant_id, tenant.name, *money_left, show.ago(tenant.created_at))
