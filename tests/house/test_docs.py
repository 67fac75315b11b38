"""Documents name files; the files are there."""

import pathlib
import re

import pytest

TOP = pathlib.Path(__file__).parents[2]
SERVICES = TOP / "services" / "darkroom"
ROOTS = (TOP, SERVICES, SERVICES / "scheduler", SERVICES / "model_runner")
DOCUMENTS = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"), *SERVICES.rglob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_links_lead_somewhere(document: pathlib.Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    dead = [link for link in links if not (document.parent / link).exists()]
    assert not dead


def test_the_request_path_names_files_that_are_there() -> None:
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", (TOP / "docs" / "request_path.md").read_text())
    assert len(named) > 40
    missing = [name for name in named if not any((root / name).exists() for root in ROOTS)]
    assert not missing


def test_every_make_target_that_is_written_down_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"`make ([a-z-]+)`", document.read_text()))
        assert named <= targets, f"{document.name} names {named - targets}"
