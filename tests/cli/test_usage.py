import csv
import datetime
import io

import pytest

from darkroom.api.billing_meter.v1 import billing_service_pb2
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.types.v1 import money_pb2
from darkroom.cli import app, ask
from tests.cli.conftest import Darkroom


def test_csv_json_and_table_tell_the_same(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    (row,) = csv.DictReader(io.StringIO(darkroom("usage", "report", "--format", "csv").out))
    report = darkroom("usage", "report", "--format", "json").json
    assert darkroom("usage", "report", "--json").json == report
    (told,) = report["rows"]
    assert row["model"] == told["model"] == made.model
    assert row["day"] == told["day"] == f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    assert int(row["generations"]) == int(told["generations"]) >= 1
    assert int(row["amount"].replace(".", "").ljust(10, "0")[:10]) > 0
    table = [line.split() for line in darkroom("usage", "report").out.splitlines()]
    assert table[1] == [row[name] for name in row]
    assert table[2][0] == "total"
    assert table[2][1:] == table[1][2:]


def test_seconds_of_media_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = billing_service_pb2.UsageRow(model="wan", usage=money_pb2.Usage(media_duration_us=1_125_000, steps=6))
    answer = billing_service_pb2.ReportUsageResponse(rows=[row], total=row)
    monkeypatch.setattr(ask, "tenant", lambda work: answer)
    assert app.run(["usage", "report", "--format", "csv"]) == 0
    (told,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (told["media_seconds"], told["steps"]) == ("1.125000", "6")


def test_groups(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    (row,) = csv.DictReader(io.StringIO(darkroom("usage", "report", "--group-by", "model", "--format", "csv").out))
    assert (row["day"], row["model"]) == ("", made.model)
    said = darkroom("usage", "report", "--group-by", "weather")
    assert said.code == 2
    assert "--group-by takes model, day, not weather" in said.err


def test_a_range_without_work_is_empty(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    assert "rows" not in darkroom("usage", "report", "--from", "2020-01-01", "--to", "2020-02-01", "--json").json
    assert darkroom("usage", "report", "--from", "2020-02-01", "--to", "2020-01-01").code == 1
    assert darkroom("usage", "report", "--from", "yesterday").code == 2
