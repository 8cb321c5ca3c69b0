"""Lines of a plan's file for what the survey says of it: the survey knows paths, people look for lines."""

from pathlib import Path

from knarr.plan.problems import written
from knarr.plan.yaml_lines import read


class Places:
    """Where the parts of a plan stand in its file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        document = read(path.read_text(encoding="utf-8-sig"))
        self._lines = {written(part): place.line for part, place in document.places.items()}

    def found(self, where: str) -> str:
        """`mappings[2].columns.x (shop.t)` with the file and the line before it, if the plan has such a part."""
        part = where.partition(" (")[0]
        while part:
            if part in self._lines:
                return f"{self._path}:{self._lines[part]}: {where}"
            part = part[: max(part.rfind("."), part.rfind("["), 0)]
        return where
