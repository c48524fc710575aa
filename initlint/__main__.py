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
    if not arguments or {"-h", "--help"} & set(arguments):
        from initlint.cli.app import run

        code = run(arguments or ["--help"])
        return code if arguments else 2
    early = None
    try:
        from initlint.cli.early import start_early

        early = start_early(arguments)
        from initlint import supervisor, workers

        if early is not None:
            workers.adopt(early[0], python=early[1])
    except KeyboardInterrupt:
        if early is not None:
            early[0].kill()
        print("initlint: interrupted", file=sys.stderr)
        return 2
    try:
        with supervisor.raising_on_signals():
            from initlint.cli.app import run

            return run(arguments)
    except (KeyboardInterrupt, supervisor.Interrupted):
        print("initlint: interrupted", file=sys.stderr)
        return 2
    except Exception as error:  # whatever it is, one line and exit code 2, as for bad input
        return _report_defect(error)
    finally:
        workers.stop_all()


def _report_defect(error: Exception) -> int:
    """One line for a defect of initlint itself; the traceback on request."""
    import traceback

    if os.environ.get("INITLINT_TRACEBACK"):
        traceback.print_exc()
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    text = " ".join(ascii(str(error))[1:-1].split())[:160]
    print(
        f"initlint: a defect of initlint at {place}: {type(error).__name__}: {text} "
        "(INITLINT_TRACEBACK=1 shows more)",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
