"""The command line: one file per command."""

COMMANDS = ("check", "describe", "explain", "fix", "rules")
