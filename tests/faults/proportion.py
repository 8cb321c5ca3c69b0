"""What was tried beside what the targets of a whole night on a farm of machines are: in proportion, and said so."""

import re
from typing import Any, Final, NamedTuple


class Target(NamedTuple):
    """A target: what is counted, how many a night, and which lines count, by their fault or by what must hold."""

    what: str
    a_night: int
    faults: str

    def counts(self, fault: str, must: str) -> bool:
        """Whether a line of the table counts."""
        return re.search(self.faults, f"{fault}\n{must}") is not None


RESTARTED: Final = r"(source|target)( or target)? (restarted|killed)|(source|target)('s backends)?.* in mid COPY"

TARGETS: Final = [
    Target("processes killed, at each boundary and at random", 10_000, r"SIGKILL"),
    Target("workers frozen, and woken when their work was somebody else's", 100, r"SIGSTOP"),
    Target("commits whose answer was lost", 1_000, r"after (the )?COMMIT"),
    Target("Temporal server killed and started again on its file (1,000 a release)", 1_000, r"Temporal server"),
    Target("source or target restarted, killed or cut off, most in mid COPY", 1_000, RESTARTED),
    Target("schedules of the protocol on PostgreSQL (250,000 steps, some 64 each)", 3_900, r"random schedules"),
    Target("rollbacks, the target held against its dump before", 1_000, r"equals its dump before"),
]


def lines(records: list[dict[str, Any]]) -> list[str]:
    """A table: each target, how much of it was tried in what is recorded, and how much of that held."""
    told = ["| of the night's targets | a night | tried here | held |", "| --- | ---: | ---: | ---: |"]
    for target in TARGETS:
        those = [record for record in records if target.counts(record["fault"], record["must"])]
        tried, held = sum(record["tried"] for record in those), sum(record["held"] for record in those)
        told.append(f"| {target.what} | {target.a_night:,} | {tried:,} | {held:,} |")
    return told
