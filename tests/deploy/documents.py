"""Headings and code of deploy's documents."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "deploy"
README = FOLDER / "README.md"
RUNBOOK = FOLDER / "runbook.md"


def headings(path: Path) -> list[str]:
    return re.findall(r"^#{1,4} (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)


def anchors(path: Path) -> list[str]:
    """As GitHub and GitLab make them of headings."""
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(path)]


def sections(path: Path, level: str = "## ") -> dict[str, str]:
    """The text below each heading of a level, by the heading."""
    parts = re.split(rf"^{level}(.+)$", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
