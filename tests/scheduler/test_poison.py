import pytest

from darkroom.scheduler import poison

LIMITS = poison.Limits(attempts_max=5, solo_deaths_max=3)


@pytest.mark.parametrize(
    ("attempt", "solo", "before", "verdict"),
    [
        (1, False, 0, poison.Verdict("", True, 0)),  # a suspect, no more
        (2, True, 0, poison.Verdict("", True, 1)),
        (3, True, 1, poison.Verdict("", True, 2)),
        (4, True, 2, poison.Verdict("POISONED", True, 3)),
        (4, False, 2, poison.Verdict("", True, 2)),  # with others aboard nothing is proved
        (5, False, 0, poison.Verdict("RUNNER_FAULT", True, 0)),
        (5, True, 2, poison.Verdict("POISONED", True, 3)),
    ],
)
def test_after_death(attempt, solo, before, verdict):
    record = poison.Record(attempt, suspect=False, solo_deaths=before)
    assert poison.after_death(record, solo=solo, limits=LIMITS) == verdict


@pytest.mark.parametrize(("attempt", "failure"), [(1, ""), (4, ""), (5, "RUNNER_FAULT")])
def test_after_fault(attempt, failure):
    verdict = poison.after_fault(poison.Record(attempt, suspect=False, solo_deaths=1), limits=LIMITS)
    assert verdict == poison.Verdict(failure, False, 1)


def test_both_failures_have_words():
    assert set(poison.MESSAGES) == {poison.POISONED, poison.RUNNER_FAULT}


@pytest.mark.parametrize(("attempt", "forgiven", "failure"), [(5, True, ""), (9, True, ""), (5, False, "RUNNER_FAULT")])
def test_suspensions_that_are_forgiven_never_fail_anything(attempt, forgiven, failure):
    record = poison.Record(attempt, suspect=True, solo_deaths=1)
    verdict = poison.after_suspension(record, forgiven=forgiven, limits=LIMITS)
    assert verdict == poison.Verdict(failure, True, 1, forgiven=forgiven)
