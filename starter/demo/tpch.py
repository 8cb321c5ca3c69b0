"""The legacy order system: TPC-H generated, loaded and given its keys."""

import shutil
import subprocess
import sysconfig
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from knarr.local.errors import LocalServerError
from knarr.postgres.session import connect

TABLES: Final = ("region", "nation", "part", "supplier", "partsupp", "customer", "orders", "lineitem")


@dataclass(frozen=True)
class Loaded:
    """What was loaded, and how long it took."""

    rows: int
    bytes: int
    seconds: float


async def load(dsn: str, scale: float, folder: Path) -> Loaded:
    """Generate TPC-H at a scale (1 is about 1 GB) and load it into an empty database.

    Args:
        folder: for the generated files, which are removed as they are loaded.

    Raises:
        LocalServerError: the generator is missing or failed.
    """
    began = time.monotonic()
    generate(scale, folder)
    connection = await connect(dsn, application_name="knarr demo")
    rows = size = 0
    try:
        await connection.execute(_sql("legacy.sql"))
        for table in TABLES:
            file = folder / f"{table}.csv"
            size += file.stat().st_size
            status = await connection.copy_to_table(table, schema_name="public", source=file, format="csv", header=True)
            rows += int(status.split()[-1])
            file.unlink()
        await connection.execute(_sql("legacy_keys.sql"))
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    return Loaded(rows, size, time.monotonic() - began)


def generate(scale: float, folder: Path) -> None:
    """Write the eight tables as CSV files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
    program = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    if program is None:
        raise LocalServerError(f"`tpchgen-cli` is neither at {beside} nor on the PATH", hint="make setup installs it")
    command = [program, "csv", "--scale-factor", f"{scale:g}", "--output-dir", str(folder), "--overwrite", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LocalServerError(
            f"tpchgen-cli failed:\n{done.stderr.strip()[-2000:]}", hint="is there space on the disk?"
        )


def _sql(name: str) -> str:
    return files("starter.demo").joinpath(name).read_text(encoding="utf-8")
