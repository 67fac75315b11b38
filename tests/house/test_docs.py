"""Documents name files; the files are there."""

import json
import pathlib
import re

import pytest

from darkroom import catalog

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


def test_every_catalogue_entry_that_is_written_down_is_one(tmp_path: pathlib.Path) -> None:
    blocks = [
        block for path in DOCUMENTS for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.M | re.S)
    ]
    entries = [block for block in blocks if re.search(r"^family: ", block, re.M)]
    for entry in entries:
        (tmp_path / f"{re.findall(r'^name: (.+)$', entry, re.M)[0]}.yaml").write_text(entry)
    assert len(catalog.load(tmp_path)) == len(entries) > 0


def test_every_figure_that_is_written_down_is_a_kept_one() -> None:
    rows = re.findall(
        r"^\| `(\w+\.json)` \| `(\w+)` \| ([\d.]+) \|$", (TOP / "docs" / "performance.md").read_text(), re.M
    )
    assert rows
    for result, figure, written in rows:
        kept = json.loads((TOP / "benchmarks" / "results" / result).read_text())["figures"][figure]
        digits = len(written.partition(".")[2])
        assert f"{kept:.{digits}f}" == written, f"{result}: {figure}"
