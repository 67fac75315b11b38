import dataclasses
from pathlib import Path
from typing import Any

import pytest

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.families import FAMILIES, flux
from darkroom.model_runner.engine.job import EngineConfig
from darkroom.model_runner.engine.residency import Residency


def make(specs: Any, **config: Any) -> Residency:
    return Residency(EngineConfig(**config), list(specs.values()), FAMILIES)


def test_loads_on_demand_and_keeps(specs: Any) -> None:
    residency = make(specs)
    assert not residency.has("true_cfg")
    family = residency.get("true_cfg", in_use=set())
    assert isinstance(family, flux.Flux)
    assert residency.get("true_cfg", in_use=set()) is family
    assert residency.models == ("true_cfg",)


def test_the_longest_unused_leaves_for_another(specs: Any) -> None:
    residency = make(specs, memory_bytes_max=2_000_000)
    for name in ("true_cfg", "embedded", "true_cfg", "none"):
        residency.get(name, in_use=set())
    assert residency.models == ("true_cfg", "none")


def test_what_is_in_use_stays_and_the_other_waits(specs: Any) -> None:
    residency = make(specs, memory_bytes_max=1_000_000)
    residency.get("true_cfg", in_use=set())
    assert residency.must_wait("none", in_use={"true_cfg"})
    assert not residency.must_wait("none", in_use=set())
    assert not residency.must_wait("true_cfg", in_use={"true_cfg"})
    residency.get("none", in_use=set())
    assert residency.models == ("none",)


def test_a_model_too_big_for_the_runner_is_refused_at_once(specs: Any) -> None:
    residency = make(specs, memory_bytes_max=999_999)
    assert not residency.must_wait("none", in_use={"true_cfg"})
    with pytest.raises(errors.LoadFailed, match="more than this runner has"):
        residency.get("none", in_use=set())


def test_other_weights_than_the_entry_says_are_refused(specs: Any) -> None:
    changed = dataclasses.replace(specs["none"], revision="sha256:" + "0" * 64)
    with pytest.raises(errors.LoadFailed, match="not those of its catalogue entry"):
        make({"none": changed}).get("none", in_use=set())


@pytest.mark.parametrize("changes", [{"family": "sdxl"}, {"name": "other"}])
def test_a_model_not_served_is_refused(specs: Any, changes: Any) -> None:
    with pytest.raises(errors.LoadFailed, match="does not serve"):
        make({"none": dataclasses.replace(specs["none"], **changes)}).get("none", in_use=set())


def test_an_empty_directory_is_refused(specs: Any, tmp_path: Path) -> None:
    from darkroom.model_runner.engine import revision

    empty = dataclasses.replace(specs["none"], path=tmp_path, revision=revision.digest(tmp_path))
    with pytest.raises(errors.LoadFailed, match="could not be loaded"):
        make({"none": empty}).get("none", in_use=set())
