"""Which weights a folder holds.

In: a model's directory. Out: one digest over its weight files, which a catalogue entry states and `residency` checks
before it loads anything.
"""

import hashlib
from pathlib import Path


def digest(folder: Path) -> str:
    """Return `sha256:` and the SHA-256 of the lines that `sha256sum` prints of all *.safetensors below, by path."""
    lines = []
    for path in sorted(folder.rglob("*.safetensors"), key=lambda file: file.relative_to(folder).as_posix()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
