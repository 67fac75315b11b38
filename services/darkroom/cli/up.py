"""`darkroom up`: the whole platform in the foreground.

Nothing comes in but DARKROOM_HOME; the endpoint and the connection file's path go out, and what dies is started again until Ctrl-C.
"""

import click


@click.command()
@click.option(
    "--runners", default=1, show_default=True, type=click.IntRange(1, 16), help="CPU runners, if there is no GPU."
)
def up(runners: int) -> None:
    """Run PostgreSQL, every room and a runner per accelerator on this machine until Ctrl-C."""
    from darkroom.cli import home, platform

    async def run() -> None:
        async with platform.running(runners=runners, say=click.echo) as connection:
            click.echo(f"endpoint     {connection.scheduler_address} (gRPC; the other rooms are in the file)")
            click.echo(f"keys         {home.connection_path()} (mode 0600; found by itself by this command)")
            click.echo("now, in another terminal:")
            click.echo(
                '  darkroom generate pocket-image --prompt "a red circle left of a blue square on a white background"'
            )
            click.echo("Ctrl-C stops everything")
            await platform.interrupted()

    with home.lock():
        platform.run(run())
