import datetime
import decimal

from darkroom import money, pricing
from darkroom.api.billing_meter.v1 import account_service_pb2, billing_service_pb2
from darkroom.api.types.v1 import money_pb2
from darkroom.billing_meter import domain
from darkroom.billing_meter.servicer import translate

NOW = datetime.datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=datetime.UTC)


def charge(**changes: object) -> domain.Charge:
    fields: dict[str, object] = {
        "generation_id": "gen_1",
        "transaction_id": "txn_1",
        "model": "m",
        "usage": pricing.Quantities(images=1),
        "lines": [pricing.PriceLine("megapixel", decimal.Decimal("0.004096"), 2, 1)],
        "amount": money.Money(1, "USD"),
        "free_reason": "",
        "price_version_id": "pri_1",
        "posted_at": NOW,
        "tags": {"a": "b"},
    }
    return domain.Charge(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_charge_is_posted_or_free() -> None:
    posted = translate.charge(charge())
    assert posted.state == billing_service_pb2.CHARGE_STATE_POSTED
    assert posted.lines[0] == money_pb2.PriceLine(
        meter="megapixel", quantity="0.004096", unit_price_nanos=2, amount_nanos=1
    )
    assert (posted.amount.nanos, dict(posted.tags)) == (1, {"a": "b"})
    assert posted.posted_at.ToDatetime(tzinfo=datetime.UTC) == NOW
    free = translate.charge(charge(free_reason="FAILED", lines=[], transaction_id=""))
    assert free.state == billing_service_pb2.CHARGE_STATE_FREE


def test_small_quantities_are_written_without_exponents() -> None:
    line = pricing.PriceLine("megapixel", decimal.Decimal(1) / 1_000_000_000, 1, 0)
    assert translate.charge(charge(lines=[line])).lines[0].quantity == "0.000000001"


def test_a_tenants_balance_is_credit_less_charges() -> None:
    balance = domain.Balance(available_nanos=5, held_nanos=3)
    tenant = translate.tenant(
        domain.Tenant(tenant_id="ten_1", name="n", currency="EUR", created_at=NOW, balance=balance)
    )
    assert (tenant.balance, tenant.held) == (
        money_pb2.Money(currency="EUR", nanos=8),
        money_pb2.Money(currency="EUR", nanos=3),
    )


def test_instants_that_are_none_stay_unset() -> None:
    key = translate.key(
        domain.Key(
            key_id="key_1",
            tenant_id="ten_1",
            name="n",
            prefix="dk_0",
            scopes=("a",),
            created_at=NOW,
            expires_at=None,
            revoked_at=NOW,
        )
    )
    assert isinstance(key, account_service_pb2.Key)
    assert (key.HasField("expires_at"), key.HasField("revoked_at")) == (False, True)


def test_a_price_version_has_every_rate() -> None:
    rates = pricing.Rates(
        currency="EUR",
        nanos_per_image=1,
        nanos_per_megapixel=2,
        nanos_per_gpu_second=3,
        minimum_nanos=4,
        nanos_per_media_second=5,
    )
    version = translate.price_version(
        domain.PriceVersion(price_version_id="pri_1", model="m", rates=rates, effective_from=NOW)
    )
    assert (version.nanos_per_image, version.nanos_per_megapixel, version.nanos_per_media_second) == (1, 2, 5)
    assert (version.nanos_per_gpu_second, version.minimum_nanos, version.currency) == (3, 4, "EUR")


def test_a_row_has_its_currency() -> None:
    row = translate.usage_row(domain.UsageRow("m", "2026-11-20", 2, pricing.Quantities(steps=5), 9, 1), currency="EUR")
    assert (row.model, row.day, row.generations, row.free_generations) == ("m", "2026-11-20", 2, 1)
    assert (row.amount, row.usage.steps) == (money_pb2.Money(currency="EUR", nanos=9), 5)
