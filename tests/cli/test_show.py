import datetime
from pathlib import Path

import PIL.Image
import pytest
import rich.console
from google.protobuf import timestamp_pb2

from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.types.v1 import media_pb2, money_pb2
from darkroom.cli import show

ID = "gen_" + "0" * 32


def usd(nanos: int) -> money_pb2.Money:
    return money_pb2.Money(currency="USD", nanos=nanos)


def test_a_bill_lists_units_and_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        money_pb2.PriceLine(meter="image", quantity="1", unit_price_nanos=100_000, amount_nanos=100_000),
        money_pb2.PriceLine(meter="gpu_second", quantity="2.5", unit_price_nanos=4 * 10**9, amount_nanos=10**10),
        money_pb2.PriceLine(meter="media_second", quantity="1.125", unit_price_nanos=8 * 10**9, amount_nanos=9 * 10**9),
        money_pb2.PriceLine(meter="cap", quantity="1", unit_price_nanos=-(10**9), amount_nanos=-(10**9)),
    ]
    show.bill(
        billing_pb.Charge(
            generation_id=ID,
            state=billing_pb.CHARGE_STATE_POSTED,
            lines=lines,
            amount=usd(18_000_100_000),
            usage=money_pb2.Usage(gpu_time_us=2_500_000),
            transaction_id="txn_1",
            tags={"team": "film", "job": "[7]"},
        )
    )
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "unit                             quantity  price of one  amount in USD",
        "image                                   1   0.000100000    0.000100000",
        "GPU-second                            2.5   4.000000000   10.000000000",
        "second of media                     1.125   8.000000000    9.000000000",
        "above the estimate, not charged                           -1.000000000",
        "total                                                     18.000100000",
        "2.500000 GPU-seconds used; POSTED to the ledger as txn_1",
        "tags job=[7], team=film",
    ]


def test_a_bill_that_is_pending_or_free_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show.bill(billing_pb.Charge(generation_id=ID, state=billing_pb.CHARGE_STATE_PENDING))
    assert capsys.readouterr().out == f"PENDING: not in the ledger yet; `darkroom billing show {ID}` will have it\n"
    show.bill(billing_pb.Charge(state=billing_pb.CHARGE_STATE_FREE, free_reason="FAILED"))
    assert capsys.readouterr().out == "FREE: FAILED\n"


def test_an_id_is_never_cut_and_only_prose_is_wrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show.out, "_width", 60)
    show.rows(("id", "amount", "prompt"), [(ID, 12, "a red circle on white")], right=("amount",), wrap="prompt")
    first, *more = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert first == ["id", "amount", "prompt"]
    assert more[0][:2] == [ID, "12"]
    assert more[0][2:] + [word for line in more[1:] for word in line] == ["a", "red", "circle", "on", "white"]
    assert len(more) > 1


def test_a_pipe_gets_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    show.rows(("id", "prompt"), [(ID, "long " * 100)], wrap="prompt")
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_markup_in_a_prompt_is_only_text(capsys: pytest.CaptureFixture[str]) -> None:
    show.rows(("prompt",), [("[bold]red[/bold]",)])
    assert "[bold]red[/bold]" in capsys.readouterr().out


def test_a_table_without_lines_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    show.rows(("id",), [], none="there are none: make one")
    assert capsys.readouterr().out == "there are none: make one\n"


@pytest.mark.parametrize(
    ("passed_s", "text"), [(-1, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (7199, "1h"), (86_400, "1d")]
)
def test_ages(passed_s: int, text: str) -> None:
    then = timestamp_pb2.Timestamp(seconds=1_790_000_000)
    now = datetime.datetime.fromtimestamp(1_790_000_000 + passed_s, datetime.UTC)
    assert show.ago(then, now=now) == text


def test_moments_and_durations() -> None:
    assert show.moment(timestamp_pb2.Timestamp(seconds=0)) == "1970-01-01 00:00:00 UTC"
    assert [show.seconds(us) for us in (50, 999_999, 2_345_678)] == ["0.1 ms", "1000.0 ms", "2.35 s"]


def test_stages_are_drawn_to_scale(capsys: pytest.CaptureFixture[str]) -> None:
    stages = generation_pb2.StageTimes(queued_us=1_000_000, denoise_us=3_000_000)
    show.stages(generation_pb2.Generation(stages=stages))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["stage", "time"],
        ["queued", "1.00", "s", "█" * 10],
        ["denoise", "3.00", "s", "█" * 30],
    ]


def test_decisions_tell_candidates_rejections_and_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    candidate = service_pb.PlacementCandidate(
        runner_id="run_1", node="a", predicted_us=2_000_000, foreign_utilization=0.9, terms={"time": 0.5}, score=0.25
    )
    decision = service_pb.PlacementDecision(
        attempt=2, summary="run_1 was soonest", candidates=[candidate], rejections={"draining": 3}
    )
    decision.previous_attempt_end = "the runner was lost"
    decision.resumed_step = 7
    show.decisions(
        service_pb.ExplainGenerationResponse(decisions=[decision], waiting_reason="all are full"), brief=False
    )
    assert capsys.readouterr().out.splitlines() == [
        "attempt 2 (after the runner was lost): run_1 was soonest (went on from step 7)",
        "  run_1 on a: score 0.250, predicted 2.00 s, 90 % used by others",
        "    time 0.50",
        "  3 filtered out: draining",
        "waiting: all are full",
    ]


def test_a_picture_is_drawn_two_pixels_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "red.png"
    PIL.Image.new("RGB", (64, 64), (200, 0, 0)).save(path)
    terminal = rich.console.Console(force_terminal=True, color_system="truecolor", record=True, width=200)
    monkeypatch.setattr(show, "out", terminal)
    show.picture(path)
    drawn = terminal.export_text(styles=True)
    assert drawn.count("▀") == 48 * 24
    assert "38;2;200;0;0;48;2;200;0;0" in drawn


def test_no_picture_is_drawn_into_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show.picture(tmp_path / "not-even-there.png")
    assert capsys.readouterr().out == ""


def test_a_bill_tells_how_it_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    usage = money_pb2.Usage(gpu_time_us=1_000_000, steps=28, cached_steps=17)
    posted = billing_pb.CHARGE_STATE_POSTED
    show.bill(billing_pb.Charge(state=posted, usage=usage, amount=usd(1), quality=media_pb2.QUALITY_TIER_DRAFT))
    assert "1.000000 GPU-seconds used, 17 of 28 steps reused, made draft; POSTED" in capsys.readouterr().out


def test_tiers_by_name() -> None:
    assert [show.tier_name(tier) for tier in media_pb2.QualityTier.values()] == ["", "lossless", "high", "draft"]


def test_an_artifact_is_told_by_what_it_has() -> None:
    draft = media_pb2.QUALITY_TIER_DRAFT
    picture = media_pb2.Artifact(width=64, height=48, seed=7, quality=draft)
    assert show.made(picture) == "64x48, seed 7, draft"
    assert show.made(media_pb2.Artifact(width=832, height=480, duration_us=5_062_500)) == "832x480, 5.06 s, seed 0"
    assert show.made(media_pb2.Artifact(duration_us=500_000, seed=1)) == "500.0 ms, seed 1"


def test_an_estimate_tells_each_kind_of_accelerator(capsys: pytest.CaptureFixture[str]) -> None:
    kind = service_pb.AcceleratorEstimate(accelerator="cpu", work_us=1_500_000, price=usd(5), measured=True)
    told = service_pb.EstimateGenerationResponse(
        price_max=usd(10**9),
        wait_us=2_000_000,
        completion_us=3_600_000,
        steps_total=28,
        memory_bytes=64_000_000,
        accelerators=[kind],
    )
    show.estimate(told, as_json_=False)
    first, _, line = capsys.readouterr().out.splitlines()
    assert first == "28 steps, 0.06 GB, at most 1.000000000 USD; starts in about 2.0 s, done in about 3.6 s"
    assert line.split() == ["cpu", "1.50", "0.00", "0.000000005", "USD", "yes"]
    show.estimate(service_pb.EstimateGenerationResponse(), as_json_=False)
    assert "no runner serves it now" in capsys.readouterr().out
