from darkroom.api.scheduler.v1 import generation_pb2
from tests.cli.conftest import Darkroom


def test_the_decision_is_told_with_its_terms(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    said = darkroom("explain", made.generation_id)
    assert said.code == 0
    first, candidate, terms = said.out.splitlines()
    assert first.startswith(f"attempt 1: {made.runner_id} on ")
    assert candidate.startswith(f"  {made.runner_id} on ")
    assert "used by others" in candidate
    assert "resident " in terms


def test_as_json(darkroom: Darkroom, made: generation_pb2.Generation) -> None:
    (decision,) = darkroom("explain", made.generation_id, "--json").json["decisions"]
    assert decision["runner_id"] == made.runner_id
    assert [candidate["runner_id"] for candidate in decision["candidates"]] == [made.runner_id]
