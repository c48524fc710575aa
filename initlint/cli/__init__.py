"""The command line: one file per command."""

COMMANDS = ("baseline", "check", "compare", "describe", "diff", "explain", "fix", "report", "rules")
