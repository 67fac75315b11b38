import dataclasses

import pytest

from darkroom.scheduler import filters
from darkroom.scheduler.domain import fleet

LIMITS = filters.Limits(heartbeat_stale_s=1.5, runner_attempts_max=4)
JOB = fleet.Job(
    generation_id="gen_1",
    tenant_id="ten_1",
    model="m",
    shape="64x64",
    priority=2,
    steps_total=10,
    work_us=5_000,
    waited_s=0.0,
    model_memory_bytes=100,
)
RUNNER = fleet.Runner(runner_id="run_1", node="node-a", models=frozenset({"m"}))


@pytest.mark.parametrize(
    ("runner", "job", "reason"),
    [
        ({}, {}, ""),
        ({"draining": True}, {}, "draining"),
        ({"quarantine": "Xid 79"}, {}, "quarantined"),
        ({"models": frozenset({"other"})}, {}, "model_not_loadable"),
        ({"memory_total_bytes": 1000, "memory_free_bytes": 99}, {}, "out_of_memory"),
        ({"memory_total_bytes": 1000, "memory_free_bytes": 100}, {}, ""),
        ({"memory_total_bytes": 1000, "memory_free_bytes": 0, "resident": frozenset({"m"})}, {}, ""),
        ({"attempts": 3}, {}, ""),
        ({"attempts": 4}, {}, "full"),
        ({"attempts": 1}, {"suspect": True}, "solo"),
        ({"attempts": 0}, {"suspect": True}, ""),
        ({"attempts": 1, "has_solo": True}, {}, "solo"),
        ({"silent_s": 1.5}, {}, ""),
        ({"silent_s": 1.6}, {}, "stale"),
        ({"silent_s": 1.6, "draining": True}, {}, "draining"),
    ],
)
def test_reason(runner, job, reason):
    assert filters.reason(dataclasses.replace(JOB, **job), dataclasses.replace(RUNNER, **runner), LIMITS) == reason
