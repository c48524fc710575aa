"""The command line: one file per command."""

COMMANDS = ("check", "describe", "diff", "explain", "fix", "rules")
