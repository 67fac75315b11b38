"""The tree tells the story: every room has its files, every source file its test, and no file is two ideas."""

import ast
import pathlib
import re

import pytest

TOP = pathlib.Path(__file__).parents[2]
SERVICES = TOP / "services" / "darkroom"
KERNELS = TOP / "kernels" / "darkroom_kernels"
ROOMS = ("scheduler", "model_runner", "lora_store", "media_store", "billing_meter")
FILE_LINES_MAX = 300
FUNCTION_LINES_MAX = 40
# Roles that other tests prove: config by test_settings and test_config_docs, domain by everything, server and fakes by
# every test that starts the room.
PROVEN_ELSEWHERE = {"__init__", "__main__", "config", "domain", "server", "fakes"}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def source_files() -> list[pathlib.Path]:
    files = [*SERVICES.rglob("*.py"), *KERNELS.rglob("*.py")]
    return [path for path in files if SERVICES / "api" not in path.parents and not path.name.startswith("test_")]


def test_of(source: pathlib.Path) -> pathlib.Path:
    if KERNELS in source.parents:
        kernel_folder = source.parent != KERNELS
        name = source.parent.name if kernel_folder else source.stem
        return source.parent / f"test_{name}.py"
    relative = source.relative_to(SERVICES)
    folder = relative.parent if relative.parent.name else pathlib.Path("shared")
    return TOP / "tests" / folder / f"test_{source.stem}.py"


test_of.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("role", ["README.md", "server.py", "servicer.py", "config.py", "domain.py"])
def test_every_room_has_its_files(room: str, role: str) -> None:
    file = SERVICES / room / role
    assert file.is_file() or (file.with_suffix("") / "__init__.py").is_file(), f"{room} has no {role}"


def test_every_source_file_has_a_test() -> None:
    missing = [
        f"{source.relative_to(TOP)} -> {test_of(source).relative_to(TOP)}"
        for source in source_files()
        if not {source.stem, source.parent.name} & PROVEN_ELSEWHERE and not test_of(source).is_file()
    ]
    assert not missing, "source files without a test file:\n" + "\n".join(missing)


def test_no_file_is_too_long() -> None:
    long = {
        str(path.relative_to(TOP)): count
        for path in [*source_files(), *(TOP / "tests").rglob("*.py")]
        if (count := len(path.read_text().splitlines())) > FILE_LINES_MAX
    }
    assert not long, f"files over {FILE_LINES_MAX} lines: {long}"


def test_no_function_is_too_long() -> None:
    long = [
        f"{path.relative_to(TOP)}:{node.lineno} {node.name} {node.end_lineno - node.lineno + 1}"
        for path in source_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long, f"functions over {FUNCTION_LINES_MAX} lines:\n" + "\n".join(long)


def test_every_module_opens_with_prose() -> None:
    bare = [
        str(path.relative_to(TOP))
        for path in source_files()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not bare, f"modules without an opening docstring: {bare}"


def test_no_file_is_named_for_nothing() -> None:
    named = [str(path.relative_to(TOP)) for path in source_files() if path.stem in FORBIDDEN_NAMES]
    assert not named


def test_no_unsafe_loading() -> None:
    unsafe = re.compile(
        r"\bpickle\b|torch\.load\(|yaml\.load\(|trust_remote_code=True|(?<![.\w])eval\(|(?<![.\w])exec\("
    )
    found = [
        f"{path.relative_to(TOP)}: {match.group()}"
        for path in source_files()
        for line in path.read_text().splitlines()
        if not line.lstrip().startswith("#") and (match := unsafe.search(line.split('"""')[0].split('"')[0]))
    ]
    assert not found, found
