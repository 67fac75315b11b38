"""`darkroom billing show ID | balance`: what one generation cost, and what is left."""

import click

from darkroom.cli import ask, show

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def billing() -> None:
    """Show what one generation cost, and what is left."""


@billing.command("show")
@click.argument("generation_id", metavar="ID")
@AS_JSON
def show_(generation_id: str, as_json: bool) -> None:
    """Show one generation's charge; PENDING until it is in the ledger."""
    charge = ask.tenant(lambda darkroom: darkroom.charge(generation_id))
    if as_json:
        show.as_json(charge)
    else:
        show.bill(charge)


@billing.command()
@AS_JSON
def balance(as_json: bool) -> None:
    """Show the tenant's balance, what of it is held for work, and what is available."""
    answer = ask.tenant(lambda darkroom: darkroom.balance())
    if as_json:
        show.as_json(answer)
    else:
        lines = (
            ("balance", answer.balance, "credit less charges"),
            ("held", answer.held, "set aside for work, some ahead of it; what is not needed comes back within minutes"),
            ("available", answer.available, "the rest"),
        )
        width = max(len(show.amount(value)) for _, value, _ in lines)
        for name, value, meaning in lines:
            click.echo(f"{name:<9}  {show.amount(value):>{width}}  {meaning}")
