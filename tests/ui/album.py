"""An album of pictures of runs in the Web UI: what to photograph, and the text that each picture shows."""

import asyncio
import json
import sys
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

from temporalio.client import WorkflowHandle

from tests.ui.shots import Shot

ROOT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = ROOT / "artefacts" / "web-ui"
COLUMNS: Final = ("Status", "Workflow ID", "KnarrState", "KnarrPhase", "KnarrSource", "KnarrTarget", "Start")
LONGEST_SECONDS: Final = 240.0

Tab = Literal["timeline", "history", "relationships", "pending-activities", "user-metadata", "search-attributes"]


class Album:
    """Takes pictures of a Temporal server's Web UI; remembers what text each shows, by the picture's name."""

    def __init__(self, ui_url: str, namespace: str, browser: asyncio.subprocess.Process, log: Path) -> None:
        self._pages: Final = f"{ui_url}/namespaces/{namespace}/workflows"
        self._namespace: Final = namespace
        self._browser: Final = browser
        self._log: Final = log
        self.texts: dict[str, str] = {}

    def list_of_runs(self, name: str, ready: list[str], *, configured: bool = False) -> Shot:
        """The list of workflows; `configured` with columns chosen as an operator would."""
        columns = {self._namespace: [{"label": column} for column in COLUMNS]}
        stored = {"namespace-workflow-table-columns": json.dumps(columns)} if configured else {}
        query = urllib.parse.quote('WorkflowType="Migration"')
        return shot(name, f"{self._pages}?query={query}" if configured else self._pages, ready, stored=stored)

    async def page_of(
        self, name: str, handle: WorkflowHandle[Any, Any], tab: Tab, ready: list[str], framed: list[str] | None = None
    ) -> Shot:
        """One tab of a workflow."""
        run_id = (await handle.describe()).run_id
        place = f"{self._pages}/{urllib.parse.quote(handle.id, safe='')}/{run_id}/{tab}"
        return shot(name, place, ready, framed=framed)

    async def take(self, *shots: Shot) -> None:
        """Take the pictures; fails with what the browser said."""
        assert self._browser.stdin is not None
        assert self._browser.stdout is not None
        self._browser.stdin.write(json.dumps(shots).encode() + b"\n")
        async with asyncio.timeout(LONGEST_SECONDS):
            assert await self._browser.stdout.readline(), self._log.read_text()
        for each in shots:
            self.texts[each["name"]] = (FOLDER / f"{each['name']}.txt").read_text()


@asynccontextmanager
async def album(ui_url: str, namespace: str) -> AsyncIterator[Album]:
    """An empty album, and the browser that fills it, in a process of its own that ends with the block."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / "browser.log"
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.ui.shoot",
            str(FOLDER),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
        )
    assert process.stdin is not None
    try:
        yield Album(ui_url, namespace, process, log)
        process.stdin.close()
        async with asyncio.timeout(LONGEST_SECONDS):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def shot(
    name: str, url: str, ready: list[str], *, framed: list[str] | None = None, stored: dict[str, str] | None = None
) -> Shot:
    """A picture of a page that shows `ready`."""
    return Shot(name=name, url=url, ready=ready, framed=framed or [], follow="", arrived="", stored=stored or {})
