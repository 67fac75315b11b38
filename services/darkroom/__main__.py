"""The one command, `darkroom`.

Words and flags come in; a picture, a table or one JSON object goes out, and an exit code: 0 done, 1 refused or failed (one sentence
on stderr), 2 misused, 130 interrupted. `cli.app` names the words; each is imported only when it is used.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these words, those of the process if none are given; always ends in SystemExit."""
    from darkroom.cli import app

    sys.exit(app.run(list(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    main()
