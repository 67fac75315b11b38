import decimal

from darkroom.api.scheduler.v1 import generation_pb2
from tests.cli.conftest import Darkroom


def test_a_bill_has_its_lines_and_its_place_in_the_ledger(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    charge = darkroom("billing", "show", made.generation_id, "--json").json
    said = darkroom("billing", "show", made.generation_id)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[1].split() == ["image", "1", "0.000100000", "0.000100000"]
    total, _, cents = lines[-2].split()[-1].partition(".")
    assert int(total + cents) == int(charge["amount"]["nanos"]) > 0
    assert lines[-1].endswith(f"POSTED to the ledger as {charge['transaction_id']}")


def test_a_bill_that_is_not_written_yet_says_so(darkroom: Darkroom, long: generation_pb2.Generation) -> None:
    said = darkroom("billing", "show", long.generation_id)
    assert said.code == 0
    assert said.out.startswith("PENDING: ")
    assert f"`darkroom billing show {long.generation_id}`" in said.out
    assert darkroom("billing", "show", long.generation_id, "--json").json["state"] == "CHARGE_STATE_PENDING"


def test_there_is_no_bill_for_what_nobody_asked(darkroom: Darkroom) -> None:
    assert darkroom("billing", "show", "gen_" + "0" * 32).code == 1
    assert "generation_id: must be an id" in darkroom("billing", "show", "everything").err


def test_balance_tells_what_is_there_what_of_it_is_held_and_what_is_available(
    darkroom: Darkroom, made: generation_pb2.Generation
) -> None:
    answer = darkroom("billing", "balance", "--json").json
    nanos = {name: int(answer[name].get("nanos", 0)) for name in ("balance", "held", "available")}
    assert nanos["held"] > 0  # what the scheduler has set aside ahead of more work
    assert nanos["available"] == nanos["balance"] - nanos["held"]
    said = [line.split() for line in darkroom("billing", "balance").out.splitlines()]
    assert [line[0] for line in said] == ["balance", "held", "available"]
    for name, figure, currency, *_ in said:
        assert (decimal.Decimal(figure) * 10**9, currency) == (nanos[name], "USD")
