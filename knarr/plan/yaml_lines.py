"""YAML that says what it looks like: plain data, with the line of every value, from a stream of parser events.

The parser's events are taken one by one and never composed by PyYAML, because an alias bomb of 350 bytes composes
to 254 MB and 40 kB of `[` end in a RecursionError (research/reliability.md, M19). Anchors, aliases, tags, duplicate
keys and keys that are no text are refused. Of the scalars without quotes only true, false, null and decimal numbers
are more than text: `no`, `1:30`, `017`, `NULL` and `2026-11-24` stay what they are. `null` as a key is text, because
a column has such a key.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import yaml

from knarr.plan.problems import Fault, YamlPath, describe, quoted

YamlValue: TypeAlias = "bool | int | float | str | list[YamlValue] | dict[str, YamlValue] | None"

DEEPEST: Final = 50
# A plan of 200 mappings with 10 columns each, all in their long form, has 11,000 values.
MOST_VALUES: Final = 40_000
MOST_FAULTS: Final = 1_000

COMMA_HINT: Final = "Inside { } and [ ] a ',' ends a value; put SQL that has one in double quotes."

# The C parser where the wheel brings it: some 20 times as fast. Both give the same events.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# 18 digits fit into every integer that Knarr knows, and Python refuses to read more than 4,300.
_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{0,40})?(?:[eE][-+]?[0-9]{1,3})?")
_CONSTANTS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None, "~": None, "": None}

# What YAML does not allow, and the characters that make a line read otherwise than it is (CVE-2021-42574).
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\ufeff")
_MISLEADING: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value begins, both counted from 1; for an entry of a mapping that is where its key begins."""

    line: int
    column: int
    raw: str | None = None
    """The scalar as it stands in the file; None for lists and mappings."""


@dataclass(slots=True)
class Document:
    """What a YAML text holds. `data` counts only when `readable`."""

    data: YamlValue = None
    places: dict[YamlPath, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    refused: set[YamlPath] = field(default_factory=set)
    """Paths whose value was not read because something was wrong with it; what else is wrong there is no news."""
    readable: bool = True

    def nearest(self, path: YamlPath) -> YamlPath:
        """The longest part of a path that is in the file: a short form has no `from`, and a default no line."""
        while path and path not in self.places:
            path = path[:-1]
        return path


@dataclass(slots=True)
class _Open:
    """A list or mapping that has begun and not ended yet."""

    path: YamlPath
    value: list[YamlValue] | dict[str, YamlValue]
    key: str | None = None
    place: Place | None = None
    dropped: bool = False


class _Unreadable(Exception):
    """Reading can't go on after this fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.found)
        self.fault = fault


def read(text: str) -> Document:
    """Read one YAML document. Never raises for what the text holds: `faults` says what is wrong with it."""
    document = Document()
    try:
        _check_characters(text)
        _build(text, document)
    except _Unreadable as stopped:
        document.faults.append(stopped.fault)
        document.readable = False
    return document


def _check_characters(text: str) -> None:
    for pattern, name in ((_UNPRINTABLE, "the control character"), (_MISLEADING, "the invisible character")):
        if (match := pattern.search(text)) is not None:
            line = text.count("\n", 0, match.start()) + 1
            column = match.start() - text.rfind("\n", 0, match.start())
            hint = "Write it in double quotes as an escape, if it is meant." if pattern is _MISLEADING else ""
            raise _Unreadable(
                Fault((), f"{name} U+{ord(match[0]):04X}", "text that reads as it is", hint, line=line, column=column)
            )


def _events(text: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _Unreadable(_syntax_fault(text, error)) from error


def _syntax_fault(text: str, error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return Fault((), f"no YAML ({error})", "a plan in YAML")
    lines = text.splitlines()
    row = min(mark.line, max(len(lines) - 1, 0))
    line = lines[row] if lines else ""
    problem = str(getattr(error, "problem", "") or getattr(error, "context", "") or "something unreadable")
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return Fault((), "a tab in the indentation", "spaces", line=row + 1, column=1)
    hint = ""
    if "mapping values are not allowed" in problem:
        hint = "A value with ': ' in it must stand in quotes, and the keys of one mapping must be indented alike."
    elif re.search(r":\s+(['\"]).*?\1\s*\S|^\s*-\s+(['\"]).*?\2\s*[^\s:]", line):
        hint = "A value that begins with a quote must stand in quotes as a whole; or write |- and the SQL below it."
    elif "expected ',' or" in problem:
        hint = COMMA_HINT
    elif "could not find expected ':'" in problem or "block end" in problem:
        hint = "The keys of one mapping must be indented alike, each with ': ' behind it."
    return Fault((), f"broken YAML: {problem}", "valid YAML", hint, line=row + 1, column=mark.column + 1)


def _build(text: str, document: Document) -> None:
    stack: list[_Open] = []
    documents = 0
    for event in _events(text):
        match event:
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    raise _Unreadable(_at(event, (), "a second document", "one plan in a file"))
            case yaml.ScalarEvent():
                _scalar(document, stack, event)
            case yaml.AliasEvent():
                _alias(document, stack, event)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                _open(document, stack, event)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                stack.pop()
        if len(document.faults) > MOST_FAULTS:
            document.readable = False
            return
    if documents == 0:
        raise _Unreadable(Fault((), "an empty file", "a plan in YAML"))


def _scalar(document: Document, stack: list[_Open], event: yaml.ScalarEvent) -> None:
    plain = bool(event.implicit[0])
    value: YamlValue = _resolve(event.value) if plain else event.value
    if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
        # A column has a key `null`, which nobody should have to put in quotes.
        _key(document, stack[-1], event, "null" if event.value == "null" else value)
        return
    place = _begin(event, event.value)
    path, place = _next(stack, place)
    if (match := _UNSTORABLE.search(event.value)) is not None:
        _refuse(document, _at(event, path, f"the character U+{ord(match[0]):04X}", "text that PostgreSQL can store"))
    _check_properties(document, event, path)
    _put(document, stack, path, place, value)


def _key(document: Document, mapping: _Open, event: yaml.ScalarEvent, value: YamlValue) -> None:
    assert isinstance(mapping.value, dict)
    key = event.value
    path = (*mapping.path, key)
    mapping.key = key
    mapping.place = _begin(event)
    if not isinstance(value, str):
        hint = f"Write it in quotes: '{quoted(key)[1:-1]}'." if key else ""
        _refuse(document, _at(event, path, f"{describe(value)} as a key", "text", hint))
    elif key != key.strip() or _UNSTORABLE.search(key):
        _refuse(document, _at(event, path, f"the key {quoted(key)}", "a key without blanks around it"))
    elif key in mapping.value:
        first = document.places[path].line
        document.faults.append(
            _at(event, path, "the same key again", "each key once", f"It stands on line {first} already.")
        )
        mapping.dropped = True
    _check_properties(document, event, path)


def _alias(document: Document, stack: list[_Open], event: yaml.AliasEvent) -> None:
    if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
        raise _Unreadable(_at(event, stack[-1].path, f"{_named('alias *', event.anchor)} as a key", "text"))
    path, place = _next(stack, _begin(event))
    _refuse(document, _at(event, path, _named("alias *", event.anchor), "the value itself: a plan has no aliases"))
    _put(document, stack, path, place, None)


def _open(document: Document, stack: list[_Open], event: yaml.SequenceStartEvent | yaml.MappingStartEvent) -> None:
    kind = "a list" if isinstance(event, yaml.SequenceStartEvent) else "a mapping"
    if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
        raise _Unreadable(_at(event, stack[-1].path, f"{kind} as a key", "text"))
    path, place = _next(stack, _begin(event))
    if len(stack) >= DEEPEST:
        found = f"more than {DEEPEST} lists and mappings inside each other"
        raise _Unreadable(_at(event, path[:4], found, f"at most {DEEPEST}"))
    _check_properties(document, event, path)
    value: list[YamlValue] | dict[str, YamlValue] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
    _put(document, stack, path, place, value)
    stack.append(_Open(path, value))


def _next(stack: list[_Open], place: Place) -> tuple[YamlPath, Place]:
    """Path and place of the value that comes now; a mapping's entry is found where its key is."""
    if not stack:
        return (), place
    parent = stack[-1]
    if isinstance(parent.value, list):
        return (*parent.path, len(parent.value)), place
    assert parent.key is not None
    assert parent.place is not None
    return (*parent.path, parent.key), Place(parent.place.line, parent.place.column, place.raw)


def _put(document: Document, stack: list[_Open], path: YamlPath, place: Place, value: YamlValue) -> None:
    if len(document.places) >= MOST_VALUES:
        raise _Unreadable(Fault((), f"more than {MOST_VALUES:,} values", "fewer", line=place.line, column=place.column))
    document.places.setdefault(path, place)
    if not stack:
        document.data = value
        return
    parent = stack[-1]
    if isinstance(parent.value, list):
        parent.value.append(value)
        return
    if parent.key is not None and not parent.dropped:
        parent.value[parent.key] = value
    parent.key, parent.dropped = None, False


def _check_properties(
    document: Document, event: yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent, path: YamlPath
) -> None:
    if event.anchor is not None:
        document.faults.append(
            _at(event, path, _named("anchor &", event.anchor), "the value alone: a plan has no anchors")
        )
    if event.tag is not None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        _refuse(document, _at(event, path, _named("tag ", tag), "the value alone: a plan has no tags"))


def _named(kind: str, name: str | None) -> str:
    return f"the {kind}{quoted(name or '')[1:-1]}"


def _refuse(document: Document, fault: Fault) -> None:
    document.faults.append(fault)
    document.refused.add(fault.path)


def _at(event: yaml.Event, path: YamlPath, found: str, expected: str, hint: str = "") -> Fault:
    place = _begin(event)
    return Fault(path, found, expected, hint, line=place.line, column=place.column)


def _begin(event: yaml.Event, raw: str | None = None) -> Place:
    mark = event.start_mark
    assert mark is not None  # every event of a parser has one; only events made by hand have none
    return Place(mark.line + 1, mark.column + 1, raw)


def _resolve(text: str) -> YamlValue:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
