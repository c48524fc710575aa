"""The command line: one file per command."""

COMMANDS = (
    "baseline",
    "cache",
    "check",
    "compare",
    "describe",
    "diff",
    "explain",
    "fix",
    "report",
    "rules",
)
