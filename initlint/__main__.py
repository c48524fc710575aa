"""The ``initlint`` command, also ``python -m initlint``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__" and sys.path[:1] == [os.getcwd()]:
    # `python -m` puts the working directory first, where a model's folder could shadow a module
    sys.path.append(sys.path.pop(0))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 or 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        from initlint import __version__

        print(f"initlint {__version__}")
        return 0
    from initlint import supervisor
    from initlint.cli.early import start_early

    try:
        supervisor.raise_on_signals()
        start_early(arguments)
        from initlint.cli.app import run

        return run(arguments)
    except KeyboardInterrupt:
        print("initlint: interrupted", file=sys.stderr)
        return 2
    finally:
        supervisor.stop_all()


if __name__ == "__main__":
    sys.exit(main())
