"""`darkroom explain ID`: why a generation ran where and when it did."""

import click

from darkroom.cli import ask, show


@click.command()
@click.argument("generation_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(generation_id: str, as_json: bool) -> None:
    """Tell why a generation ran where and when it did."""
    answer = ask.tenant(lambda darkroom: darkroom.explain(generation_id))
    if as_json:
        show.as_json(answer)
    else:
        show.decisions(answer, brief=False)
