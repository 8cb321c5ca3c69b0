"""What each case of the fault suite found, appended to artefacts/faults.jsonl; `tests.faults.table` reads it."""

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "artefacts" / "faults.jsonl"
LONG: Final = os.environ.get("KNARR_FAULTS", "") == "long"
SEED: Final = int(os.environ.get("KNARR_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
# One for all test processes of one call: what a session recorded replaces what earlier ones recorded of the same fault.
SESSION: Final = os.environ.setdefault("KNARR_FAULTS_SESSION", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S} {os.getpid()}")


@dataclass
class Case:
    """One case while it runs: `violations` are filled in by the test; none means that all held."""

    fault: str
    must: str
    seed: int | None
    tried: int = 1
    note: str = ""
    violations: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)


def write(case: Case, held: int, **more: Any) -> None:
    """Appends one line; a line is short enough to be written whole, so two processes may append at once."""
    RESULTS.parent.mkdir(exist_ok=True)
    line = {
        "fault": case.fault,
        "must": case.must,
        "tried": case.tried,
        "held": held,
        "seconds": round(time.monotonic() - case.started, 2),
        "seed": case.seed,
        "note": case.note,
        "violations": [text[:500] for text in case.violations[:5]],
        "session": SESSION,
        "form": "long" if LONG else "short",
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        **more,
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def recorded(fault: str, must: str, *, seed: int | None = None) -> Iterator[Case]:
    """One case: recorded as held when the block ends without violations, as not held however else it ends.

    Raises AssertionError with the violations.
    """
    case = Case(fault, must, seed)
    try:
        yield case
    except BaseException as error:
        case.violations.append(f"{type(error).__name__}: {error}")
        write(case, 0)
        raise
    write(case, 0 if case.violations else case.tried)
    assert not case.violations, f"{fault}: " + "\n".join(case.violations)


def not_possible(fault: str, must: str, why: str) -> NoReturn:
    """Skips a case that this machine does not allow; the table says so, instead of leaving the row out."""
    case = Case(fault, must, None, tried=0, note=f"not possible here: {why}")
    write(case, 0)
    pytest.skip(why)
