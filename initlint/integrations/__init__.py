"""Linting inside tests and training loops: thin wrappers over `initlint.check`.

Nothing is imported here, so that pytest can load its plugin without numpy or a framework.
"""
