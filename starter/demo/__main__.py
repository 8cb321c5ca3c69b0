"""`python -m starter.demo`: both acts on a stage of their own; exit code 0 only if both went as told."""

import asyncio
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Final, NoReturn

from knarr.plan.load import load_plan
from knarr.process import run_and_exit
from starter.demo import acts, tpch
from starter.demo.stage import Stage, set_up
from starter.exits import Exit
from starter.failures import explain
from starter.output import Output
from starter.units import spoken_bytes

PLAN: Final = Path(__file__).parents[2] / "examples" / "tpch" / "shop.yaml"
FOLDER: Final = Path(".knarr/demo")


async def demo() -> int:
    """Set the stage, play both acts, and stay up for people who want to look around."""
    output = Output(as_json=False, debug=bool(os.environ.get("DEBUG")))
    hold = os.environ.get("HOLD", "") not in {"", "0"}
    stays = hold or (sys.stdout.isatty() and os.environ.get("CI", "") in {"", "0", "false"})
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _current().cancel)
    try:
        scale = float(os.environ.get("SCALE") or "0.1")
        began = time.monotonic()
        output.say(f"Knarr's demo: TPC-H at scale {scale:g}\n\nThe stage: two PostgreSQL servers, Temporal, a worker")
        async with set_up(output, FOLDER.absolute(), PLAN.parent, keep=hold, stays=stays) as stage:
            await _play(output, stage, scale)
            output.result(f"\nBoth acts went as told, in {time.monotonic() - began:.0f} s.")
            if stays:
                await _stay(output, stage)
            else:
                output.result("Its servers end now. To look around in the Web UI and the databases: HOLD=1 make demo")
    except asyncio.CancelledError:
        output.say("\nended; nothing of the demo runs any more")
        return Exit.DETACHED
    except acts.WentWrongError as error:
        output.error(
            Exit.UNEXPECTED, f"the demo did not go as told: {error}", f"the worker's log: {FOLDER}/worker.log", []
        )
        return Exit.UNEXPECTED
    except Exception as error:
        if output.debug:
            traceback.print_exc()
        complaint = explain(error)
        output.error(complaint.exit_code, complaint.message, complaint.hint or "DEBUG=1 shows more", complaint.problems)
        return complaint.exit_code
    return Exit.DONE


async def _play(output: Output, stage: Stage, scale: float) -> None:
    output.say(
        f"  PostgreSQL {stage.legacy.version} on ports {stage.legacy.port} (legacy) and {stage.shop.port} (shop)"
    )
    output.say(f"  Temporal at {stage.service.address}, Web UI {stage.service.web_ui}")
    loaded = await tpch.load(stage.legacy.dsn("legacy"), scale, FOLDER.absolute() / "tpch")
    size = spoken_bytes(loaded.bytes)
    output.say(f"  the legacy order system: 8 tables, {loaded.rows:,} rows, {size}, in {loaded.seconds:.1f} s")

    plan = load_plan(PLAN)
    output.say(f"\nAct one: {PLAN.relative_to(PLAN.parents[2])} turns it into the schema shop, on the other server")
    await acts.first(output, stage, plan)

    output.say("\nAct two: the same into a second database, and somebody tampers with a row on the way")
    await acts.second(output, stage, acts.renamed(plan, "shop-v2-tampered", "shop_again"))


async def _stay(output: Output, stage: Stage) -> None:
    psql = f"PGPASSFILE={FOLDER}/pgpass {shutil.which('psql') or stage.shop.binaries.program('psql')}"
    output.result(
        f"\nEverything stays up until Ctrl-C. Look around:\n"
        f"  Web UI       {stage.service.web_ui}\n"
        f"  reports      reports/demo-shop.html, reports/demo-shop_again.html\n"
        f"  before       {psql} -h 127.0.0.1 -p {stage.legacy.port} -U postgres legacy\n"
        f"  after        {psql} -h 127.0.0.1 -p {stage.shop.port} -U postgres shop\n"
        f"  commands     export KNARR_STATE_DIR={FOLDER}\n"
        f"               .venv/bin/knarr list\n"
        f"               .venv/bin/knarr audit shop-v2\n"
        f"  the plan     {PLAN}"
    )
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        output.say("\nending")


def _current() -> "asyncio.Task[int]":
    task = asyncio.current_task()
    assert task is not None
    return task


def main() -> NoReturn:
    """The demo as a process."""
    run_and_exit(demo())


if __name__ == "__main__":
    main()
