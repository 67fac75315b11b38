from darkroom.scheduler import grant


def test_the_target_follows_use_within_bounds() -> None:
    def target(used_lately_nanos: int) -> int:
        return grant.target_nanos(used_lately_nanos=used_lately_nanos, nanos_min=100, nanos_max=1000)

    assert [target(used) for used in (0, 50, 300, 10**9)] == [100, 100, 600, 1000]


def test_a_lease_is_low_below_half() -> None:
    assert grant.is_low(remaining_nanos=49, target_nanos=100)
    assert not grant.is_low(remaining_nanos=50, target_nanos=100)


def test_old_use_fades() -> None:
    assert grant.decayed(100.0, age_s=0.0) == 100.0
    assert grant.decayed(100.0, age_s=grant.LOOKAHEAD_S / 2) == 50.0
    assert grant.decayed(100.0, age_s=2 * grant.LOOKAHEAD_S) == 0.0
