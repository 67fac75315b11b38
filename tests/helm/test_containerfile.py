"""The images as the Containerfile describes them; `make image` builds them, which needs a base image from a registry."""

import re
import tomllib
from typing import NamedTuple

import yaml

from tests.helm import chart

TEXT = (chart.TOP / "Containerfile").read_text()
CHART_USER = 65532


class Stage(NamedTuple):
    """One stage: what it starts from and its instructions."""

    base: str
    lines: list[str]


def stages() -> dict[str, Stage]:
    """Stages by name, in their order."""
    found: dict[str, Stage] = {}
    for line in TEXT.splitlines():
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            lines: list[str] = []
            found[start[2]] = Stage(start[1], lines)
        elif found and line and not line.startswith("#"):
            lines.append(line)
    return found


def ancestry(name: str) -> list[str]:
    """The lines of a stage and of those it starts from."""
    stage = stages().get(name)
    return [*ancestry(stage.base), *stage.lines] if stage else []


def installed(target: str) -> list[str]:
    """What pip installed into the environment that the target carries."""
    (source,) = [
        match[1] for line in ancestry(target) if (match := re.match(r"COPY --from=(\S+) /opt/darkroom ", line))
    ]
    return [line.split()[-1].strip("'") for line in ancestry(source) if "pip install" in line]


def test_both_targets_are_there_and_pinned() -> None:
    assert {"control", "runner"} <= set(stages())
    assert "ARG BASE=python:3.11-slim" in TEXT
    for target in ("control", "runner"):
        assert "pip install --constraint constraints.txt" in "\n".join(ancestry("build"))
        assert stages()[target].base == "base"


def test_control_holds_no_torch_and_runner_does() -> None:
    extras = tomllib.loads((chart.TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert installed("control") == ["."]
    assert installed("runner") == [".", ".[runner,gpu]"]
    assert any(requirement.startswith("torch") for requirement in extras["runner"])
    dependencies = tomllib.loads((chart.TOP / "pyproject.toml").read_text())["project"]["dependencies"]
    assert not any(re.match(r"(torch|diffusers|transformers)\b", requirement) for requirement in dependencies)


def test_the_process_is_the_command_as_the_charts_user() -> None:
    for target in ("control", "runner"):
        lines = ancestry(target)
        assert f"USER {CHART_USER}:{CHART_USER}" in lines
        assert 'ENTRYPOINT ["darkroom", "serve"]' in lines
        assert lines.index(f"USER {CHART_USER}:{CHART_USER}") > max(
            i for i, line in enumerate(lines) if line.startswith("RUN")
        )
    users = {pod["spec"]["securityContext"]["runAsUser"] for pod in chart.pods(chart.rendered("minimal-values.yaml"))}
    assert users == {CHART_USER}


def test_only_the_sources_are_sent_to_the_build() -> None:
    rules = (chart.TOP / ".containerignore").read_text().split()
    assert rules[0] == "*"
    copied = {word for line in ancestry("build") if line.startswith("COPY") for word in line.split()[1:-1]}
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied


def test_the_makefile_builds_what_kind_loads() -> None:
    makefile, guide = (chart.TOP / "Makefile").read_text(), (chart.TOP / "k8s" / "README.md").read_text()
    image = yaml.safe_load((chart.TOP / "k8s" / "kind-values.yaml").read_text())["image"]
    for target in ("control", "runner"):
        assert f"--target {target} -t darkroom-{target} ." in makefile
        assert image[target]["tag"] == "latest"
    assert f"{image['registry']}/darkroom-$target:latest" in guide
