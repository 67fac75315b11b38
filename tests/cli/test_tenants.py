from tests.cli.conftest import Darkroom


def test_a_tenant_is_made_once_a_key_with_its_credit(darkroom: Darkroom) -> None:
    words = ("tenants", "create", "studio", "--credit", "12.50 USD", "--idempotency-key", "studio-1", "--json")
    first, second = darkroom(*words).json, darkroom(*words).json
    assert first == second
    assert first["balance"] == {"currency": "USD", "nanos": "12500000000"}


def test_credit_is_added(darkroom: Darkroom) -> None:
    tenant_id = darkroom("tenants", "create", "gallery", "--json").json["tenant_id"]
    said = darkroom("tenants", "credit", tenant_id, "3")
    assert said.code == 0
    assert said.out.splitlines()[1].split()[:4] == [tenant_id, "gallery", "3.00", "USD"]
    listed = [line.split()[:2] for line in darkroom("tenants", "list").out.splitlines()]
    assert [tenant_id, "gallery"] in listed
    assert tenant_id in [tenant["tenant_id"] for tenant in darkroom("tenants", "list", "--json").json["tenants"]]


def test_an_amount_that_is_none_is_misuse(darkroom: Darkroom) -> None:
    assert darkroom("tenants", "create", "studio", "--credit", "much").code == 2
    assert darkroom("tenants", "create", "").code == 1
