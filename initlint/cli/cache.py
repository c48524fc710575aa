"""``initlint cache``: what is kept of earlier runs."""

from __future__ import annotations

import typer

cache = typer.Typer(
    name="cache",
    help="Results kept between runs (`--cache`): where they are, and removing them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@cache.command("clean")
def clean() -> None:
    """Remove everything that is kept."""
    from initlint.cache.folder import Folder, location
    from initlint.cli.console import write

    count, freed = Folder(location()).clean()
    write(f"{count} files removed, {freed / 1e6:.1f} MB\n")


@cache.command("dir")
def show_folder() -> None:
    """Print the folder: INITLINT_CACHE_DIR, else the platform's cache folder."""
    from initlint.cache.folder import location
    from initlint.cli.console import write

    write(f"{location()}\n")
