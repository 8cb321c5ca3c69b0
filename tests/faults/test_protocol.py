"""Random schedules of the writing protocol against its model, and broken fences that they must find."""

from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.protocol import machine
from tests.faults.record import LONG, SEED, recorded
from tests.faults.stage import Theatre

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

SCHEDULES: Final = 200 if LONG else 10
STEPS: Final = 30


def scheduled(schedules: int) -> settings:
    """Hypothesis's settings: no deadline, since a step waits for a server."""
    return settings(
        max_examples=schedules,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )


def test_whatever_the_order_only_live_writers_commit_and_each_partition_once(theatre: Theatre) -> None:
    print(f"seed {SEED}: KNARR_SEED={SEED} repeats it")
    must = "rows, ledger, epoch and claims are the model's after every step"
    fault = "random schedules of attempts, deaths, zombies, raises and undoing (L1)"
    with recorded(fault, must, seed=SEED) as case, machine(theatre, "protocol") as protocol:
        case.tried = SCHEDULES
        run_state_machine_as_test(seeded(SEED)(protocol), settings=scheduled(SCHEDULES))
        case.note = f"{protocol.steps:,} steps"


BROKEN: Final = {
    "no fence at all": "BEGIN END",
    "an epoch from before the lock": """
DECLARE epoch_now bigint;
BEGIN
    SELECT epoch INTO epoch_now FROM knarr.lease WHERE lease_id = p_lease;
    IF epoch_now < p_epoch THEN RAISE EXCEPTION 'lost lease' USING ERRCODE = 'KN001'; END IF;
END""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_the_machine_finds_a_broken_fence(theatre: Theatre, name: str) -> None:
    with recorded("mutant of the fence", "the schedules above find it", seed=SEED) as case:
        case.note = name
        with machine(theatre, "broken") as protocol:
            theatre.target.psql(
                "CREATE OR REPLACE FUNCTION knarr.fence(p_lease integer, p_epoch bigint) RETURNS void "
                f"LANGUAGE plpgsql VOLATILE AS $${BROKEN[name]}$$;",
                "broken",
            )
            try:
                run_state_machine_as_test(seeded(SEED)(protocol), settings=scheduled(SCHEDULES))
            except BaseException as error:
                assert not isinstance(error, KeyboardInterrupt)
            else:
                case.violations.append(f"{name}: {SCHEDULES} schedules have not found it")
