import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.scheduler import fair
from darkroom.scheduler.domain import fleet


def job(name, tenant="a", *, priority=2, waited_s=0.0, work_us=100, deadline_s=None):
    return fleet.Job(
        generation_id=name,
        tenant_id=tenant,
        model="m",
        shape="64x64",
        priority=priority,
        steps_total=1,
        work_us=work_us,
        waited_s=waited_s,
        deadline_s=deadline_s,
    )


def order(jobs, shares=None, *, ageing_s=60.0):
    """The order in which jobs go when each is placed at once."""
    shares = shares or fair.Shares()
    queue, names = fair.Queue(jobs, shares, ageing_s=ageing_s), []
    while turn := queue.next():
        shares.charge(turn)
        names.append(turn.job.generation_id)
    return names


@pytest.mark.parametrize(
    ("priority", "waited_s", "level"), [(1, 0, 1), (2, 59, 2), (2, 60, 1), (3, 60, 2), (3, 120, 1), (3, 1e6, 1)]
)
def test_classes_age(priority, waited_s, level):
    assert fair.level(job("x", priority=priority, waited_s=waited_s), ageing_s=60.0) == level


def test_classes_go_in_order_and_an_aged_one_catches_up():
    jobs = [job("batch", priority=3), job("standard"), job("interactive", priority=1)]
    assert order(jobs) == ["interactive", "standard", "batch"]
    assert order([*jobs, job("old", "b", priority=3, waited_s=500.0)])[:2] == ["old", "interactive"]


def test_inside_a_tenant_deadlines_come_first_then_the_oldest():
    jobs = [
        job("new", waited_s=1),
        job("old", waited_s=9),
        job("later", deadline_s=20.0),
        job("soon", deadline_s=5.0),
    ]
    assert order(jobs) == ["soon", "later", "old", "new"]


def test_a_flood_of_one_tenant_lets_another_alternate():
    jobs = [job(f"a{n:03}", "a", waited_s=100 - n) for n in range(100)] + [
        job(f"b{n}", "b", waited_s=1.0 - n / 10) for n in range(3)
    ]
    assert order(jobs, ageing_s=1e6)[:6] == ["a000", "b0", "a001", "b1", "a002", "b2"]


def test_dear_work_counts_for_more():
    jobs = [job(f"a{n}", "a", work_us=300) for n in range(2)] + [job(f"b{n}", "b", work_us=100) for n in range(6)]
    names = order(jobs)
    assert names.index("a1") == 4  # after three of b's, which cost as much together as a0


def test_shares_are_remembered_between_passes_and_idleness_saves_nothing_up():
    shares = fair.Shares()
    assert order([job(f"a{n}", "a") for n in range(5)], shares) == [f"a{n}" for n in range(5)]
    late = [job("a5", "a"), job("b0", "b"), job("b1", "b"), job("b2", "b")]
    assert order(late, shares) == ["b0", "a5", "b1", "b2"]  # not all of b's, though b never had anything


def test_what_was_not_placed_costs_nothing():
    shares = fair.Shares()
    queue = fair.Queue([job("a0"), job("a1")], shares, ageing_s=60.0)
    queue.next()
    assert shares.start(2, "a") == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 1000)), min_size=1, max_size=60))
def test_while_all_wait_no_tenant_is_ahead_by_more_than_its_dearest_job(facts):
    jobs = [job(f"{n:03}", tenant, work_us=work) for n, (tenant, work) in enumerate(facts)]
    works = {one.generation_id: one for one in jobs}
    left = collections.Counter(one.tenant_id for one in jobs)
    tenants = set(left)
    had = collections.Counter()
    names = order(jobs)
    assert sorted(names) == sorted(works)
    for name in names:
        placed = works[name]
        if any(left[tenant] == 0 for tenant in tenants):
            break
        had[placed.tenant_id] += placed.work_us
        left[placed.tenant_id] -= 1
        dearest = max(one.work_us for one in jobs)
        assert max(had[tenant] for tenant in tenants) - min(had[tenant] for tenant in tenants) <= 2 * dearest
