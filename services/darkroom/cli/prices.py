"""`darkroom prices set MODEL`: what a model costs from now on (operators).

Rates of a model come in; its new price goes out. `darkroom models show` tells the price in force.
"""

import uuid

import click

from darkroom import money
from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.cli import ask, parse, show

FIELDS = {
    "image": "nanos_per_image",
    "megapixel": "nanos_per_megapixel",
    "gpu_second": "nanos_per_gpu_second",
    "media_second": "nanos_per_media_second",
    "minimum": "minimum_nanos",
}


@click.group()
def prices() -> None:
    """Set what models cost."""


@prices.command("set")
@click.argument("model")
@click.option("--image", type=parse.AMOUNT, help="For one image.")
@click.option("--megapixel", type=parse.AMOUNT, help="For a million pixels, of all frames.")
@click.option("--gpu-second", type=parse.AMOUNT, help="For one second of an accelerator.")
@click.option("--media-second", type=parse.AMOUNT, help="For one second that a video or a sound plays.")
@click.option("--minimum", type=parse.AMOUNT, help="The least that a generation costs.")
@click.option("--idempotency-key", default="", help="The same key does it once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def set_(model: str, idempotency_key: str, as_json: bool, **rates: money.Money | None) -> None:
    """Set a model's price for generations accepted from now on; what is not given costs nothing.

    Amounts are such as 0.002 or "0.002 USD". Schedulers hear of the new price within half a minute.
    """
    given = {name: rate for name, rate in rates.items() if rate is not None}
    currencies = {rate.currency for rate in given.values()}
    if len(currencies) != 1:
        raise click.UsageError("give rates, all of one currency; an amount of 0 makes a model free")
    wanted = billing_pb.PriceVersion(model=model, currency=currencies.pop())
    for name, rate in given.items():
        setattr(wanted, FIELDS[name], rate.nanos)
    request = billing_pb.SetPriceRequest(price=wanted, idempotency_key=idempotency_key or uuid.uuid4().hex)
    price = ask.operator(lambda darkroom: darkroom.set_price(request))
    if as_json:
        show.as_json(price)
        return
    click.echo(f"{price.model} from {show.moment(price.effective_from)} on\n")
    show.price(price)
