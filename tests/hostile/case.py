"""What a hostile, broken or odd input is: who writes it, and how initlint must end on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class End(str, Enum):
    """How a case must end."""

    REFUSED = "refused"
    """Exit code 2 and one line of at most 300 characters."""
    NOT_CLEAN = "not clean"
    """A finding or a refusal, never a clean bill."""
    LINTED = "linted"
    """Checked, whatever is found."""
    ANY = "any"
    """Checked or refused: the file is legal, only wasteful or damaged beyond notice."""


Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: unique; also the name of its folder.
        family: the class it belongs to in the table of results.
        target: path of what is linted, below its folder; empty for the folder itself.
        write: writes it into its folder.
        end: how the command must end.
        words: what its one-line error must hold.
    """

    name: str
    family: str
    target: str
    write: Writer
    end: End
    words: str = ""

    def make(self, root: Path) -> Path:
        """Write the case below ``root``; the path to lint."""
        folder = root / self.name
        folder.mkdir(parents=True)
        self.write(folder)
        return folder / self.target if self.target else folder


class Cases:
    """A list of cases of one family, filled by decorated functions."""

    def __init__(self, family: str, suffix: str) -> None:
        self.family = family
        self.suffix = suffix
        self.found: list[Case] = []

    def add(
        self, name: str, end: End = End.REFUSED, words: str = "", target: str | None = None
    ) -> Callable[[Writer], Writer]:
        """Register a function that writes into a folder.

        The target is ``model`` with the suffix; without a suffix, the folder.
        """

        def register(write: Writer) -> Writer:
            usual = f"model{self.suffix}" if self.suffix else ""
            path = usual if target is None else target
            stem = f"{self.family}-{name}".replace(" ", "_").replace(":", "")
            self.found.append(Case(stem, self.family, path, write, end, words))
            return write

        return register

    def content(
        self, name: str, data: bytes, end: End = End.REFUSED, words: str = "", suffix: str = ""
    ) -> None:
        """Register a file with this content."""
        target = f"model{suffix or self.suffix}"
        self.add(name, end, words, target)(
            lambda folder: (folder / target).write_bytes(data) and None
        )
