"""Rows through a plan's own Python function: COPY's text lines in, the same lines with some fields changed out."""

import asyncio
import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

from knarr.errors import DataError, PlanError, raised_at

Row = dict[str, str | None]
RowFunction = Callable[[list[Row]], list[Row]]

BATCH: Final = 1000  # rows handed to the function at once
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_TO_ESCAPE: Final = re.compile(r"[\\\b\f\n\r\t\v]")
_ESCAPE: Final = {value: "\\" + key for key, value in _ESCAPES.items()} | {"\\": "\\\\"}


def load_function(name: str, folder: Path | None = None) -> RowFunction:
    """Imports `module:function` from the plan's folder or from PYTHONPATH, and from nowhere else; once per folder.

    Args:
        name: as the plan writes it.
        folder: where the plan lies; None: the working directory.

    Raises:
        PlanError: there is no such module or function there, or importing it failed.
    """
    module_name, _, function_name = name.partition(":")
    module, _ = _load_module(name, module_name, str((folder or Path.cwd()).resolve()))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise PlanError(f"function '{name}': {module.__file__} has no function '{function_name}'")
    return function  # type: ignore[no-any-return]  # what it takes and gives is checked batch by batch


def source_digest(name: str, folder: Path | None = None) -> str:
    """SHA-256, in hex, of the file that `module:function` was imported from, as it was then; arguments as above."""
    return _load_module(name, name.partition(":")[0], str((folder or Path.cwd()).resolve()))[1]


@functools.cache
def _load_module(name: str, module_name: str, folder: str) -> tuple[ModuleType, str]:
    roots = [folder]
    roots += [str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    top = module_name.partition(".")[0]
    if top in sys.stdlib_module_names or PathFinder.find_spec(top, roots) is None:
        raise PlanError(
            f"function '{name}': no module '{module_name}' in {' or '.join(roots)}",
            hint="put the module beside the plan, or its folder on the worker's PYTHONPATH",
        )
    known = set(sys.modules)
    added = [root for root in roots if root not in sys.path]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script without a guard for being imported ends the process
        found = f"function '{name}': importing it failed: {type(error).__name__}{raised_at(error)}"
        raise PlanError(found, hint="its words are in the worker's log", detail=f"{found}: {error}") from error
    finally:
        for root in added:
            sys.path.remove(root)
        # Another plan may have other modules of the same names beside it: what lies in this folder stays this plan's.
        # What lies in a virtual environment below it is everybody's.
        for new in set(sys.modules) - known:
            if PathFinder.find_spec(new.partition(".")[0], [folder]) and _lies_in(sys.modules[new], [folder]):
                del sys.modules[new]
    if not _lies_in(module, roots):
        raise PlanError(f"function '{name}': {module_name} came from {module.__file__}, not from {' or '.join(roots)}")
    return module, hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest() if module.__file__ else ""


def _lies_in(module: ModuleType, folders: Sequence[str]) -> bool:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    return file is not None and any(Path(file).resolve().is_relative_to(folder) for folder in folders)


def raised(name: str, error: BaseException) -> DataError:
    """What to say of a function that raised: where it did, but not its words, which may quote a row."""
    found = f"transform '{name}' raised {type(error).__name__}{raised_at(error)}"
    return DataError(
        found,
        hint="its words are in the worker's log; else run the function over the rows of this partition",
        detail=f"{found}: {error}",
    )


class Transformation:
    """One function over some columns of a COPY text stream; the other fields' bytes are not looked at.

    Args:
        name: the function's name, for messages.
        function: takes a list of rows (column: text or None for NULL), gives as many in the same order.
        columns: all columns of the stream, in order.
        touched: those that the function reads and writes.
    """

    def __init__(self, name: str, function: RowFunction, columns: Sequence[str], touched: Sequence[str]) -> None:
        self._name = name
        self._function = function
        self._width = len(columns)
        unknown = [column for column in touched if column not in columns]
        if unknown:
            raise PlanError(f"transform '{name}': the mapping copies no column {', '.join(map(repr, unknown))}")
        self._places = [(column, list(columns).index(column)) for column in touched]

    async def lines(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The stream of changed lines for a stream of chunks that may break anywhere.

        Raises:
            DataError: the function raised, or did not give back what it must.
        """
        rest = b""
        pending: list[bytes] = []
        async for chunk in chunks:
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            pending += lines
            while len(pending) >= BATCH:
                batch, pending = pending[:BATCH], pending[BATCH:]
                yield await self._apply(batch)
        if rest:
            raise DataError(f"transform '{self._name}': the source's stream ended in the middle of a line")
        if pending:
            yield await self._apply(pending)

    async def _apply(self, lines: list[bytes]) -> bytes:
        # In a thread: a slow function must not keep heartbeats and other partitions waiting.
        return await asyncio.to_thread(self._apply_now, lines)

    def _apply_now(self, lines: list[bytes]) -> bytes:
        # COPY writes a tab, a newline or a backslash in a value as an escape, so the raw bytes only separate.
        fields = [line.split(b"\t") for line in lines]
        for line in fields:
            if len(line) != self._width:
                raise DataError(
                    f"transform '{self._name}': a line of COPY has {len(line)} fields, expected {self._width}"
                )
        rows = [{column: decode(line[place]) for column, place in self._places} for line in fields]
        try:
            changed = self._function(rows)
        except BaseException as error:  # a library's sys.exit() would end the worker, and every other that tries it
            raise raised(self._name, error) from error
        self._check(changed, len(lines))
        for line, row in zip(fields, changed, strict=True):
            for column, place in self._places:
                line[place] = encode(row[column])
        return b"".join(b"\t".join(line) + b"\n" for line in fields)

    def _check(self, changed: object, expected: int) -> None:
        found = f"{len(changed)} rows" if isinstance(changed, list) else f"{type(changed).__name__}"
        if not isinstance(changed, list) or len(changed) != expected:
            raise DataError(
                f"transform '{self._name}' was given {expected} rows and gave back {found}",
                hint="it must return a list with as many rows in the same order; use `where` to leave rows out",
            )
        names = {column for column, _ in self._places}
        for row in changed:
            if not isinstance(row, dict) or set(row) != names:
                raise DataError(
                    f"transform '{self._name}' gave back {unlike(row, names)}, expected the columns {sorted(names)}"
                )
            for column, value in row.items():
                if value is not None and not isinstance(value, str):
                    raise DataError(
                        f"transform '{self._name}' gave back {type(value).__name__} in column '{column}', "
                        "expected text or None",
                        hint="return each value as PostgreSQL writes it: str(value)",
                    )
                if value is not None and "\0" in value:
                    raise DataError(f"transform '{self._name}' gave back a NUL character in column '{column}'")


def unlike(row: object, names: Collection[str]) -> str:
    """What a function gave back instead of a row of these columns. Names of its own making may be a row's values."""
    if not isinstance(row, dict):
        return f"a row that is {type(row).__name__}"
    missing = sorted(set(names) - set(row))
    lacking = f" without {', '.join(map(repr, missing))}" if missing else ""
    more = len(set(row) - set(names))
    return f"a row{lacking}" + (f" with {more} columns of other names" if more else "")


def decode(field: bytes) -> str | None:
    """A field of COPY's text format as text; None for NULL."""
    if field == b"\\N":
        return None
    text = field.decode("utf-8")
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), text) if "\\" in text else text


def encode(value: str | None) -> bytes:
    """Text as a field of COPY's text format."""
    if value is None:
        return b"\\N"
    return _TO_ESCAPE.sub(lambda match: _ESCAPE[match[0]], value).encode("utf-8")
