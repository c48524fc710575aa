"""The command line: one file per command."""

COMMANDS = ("baseline", "check", "describe", "diff", "explain", "fix", "report", "rules")
