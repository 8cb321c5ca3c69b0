"""Where Temporal is: its environment and profiles, else the server of this folder, else its default address.

A folder that has runs of its own is not answered by whoever listens at the default address: that may be another
folder's server, with a run of the same plan. And where another folder's server is asked, that is said.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig
from temporalio.service import RPCError, RPCStatusCode

from knarr.local.ports import LOOPBACK
from knarr.local.state import TEMPORAL_FOLDER, LocalServers, running
from knarr.local.temporal import FOLDER_KEY, SEARCH_ATTRIBUTES, has_kept
from knarr.settings import Settings
from starter.exits import Exit
from starter.failures import StarterError
from starter.output import Output

DEFAULT_ADDRESS: Final = "127.0.0.1:7233"
DEFAULT: Final = "the default address"
CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Service:
    """A Temporal service that answered."""

    client: Client
    address: str
    web_ui: str | None
    task_queue: str  # where its workers are to be found
    folder: Path | None = None  # another folder's state, whose server this is, as far as it says so

    def link(self, workflow_id: str) -> str | None:
        """The Web UI's page of a workflow."""
        if self.web_ui is None:
            return None
        return f"{self.web_ui}/namespaces/{self.client.namespace}/workflows/{workflow_id.replace('/', '%2F')}"


async def connect(settings: Settings) -> Service:
    """Connect to Temporal; a note on stderr where what answers may not be what this folder's user thinks of.

    Raises:
        StarterError: exit 2, the profile can't be read; exit 4, nobody answers at the address, or this folder's own
            server keeps its runs and is down.
    """
    config, origin, local = locate(settings.state_dir)
    address = config.get("target_host", DEFAULT_ADDRESS)
    try:
        client = await asyncio.wait_for(
            Client.connect(**(config | {"target_host": address}), data_converter=pydantic_data_converter),
            CONNECT_SECONDS,
        )
    except (RuntimeError, RPCError, TimeoutError) as error:
        raise StarterError(
            Exit.UNREACHABLE,
            f"no Temporal server answers at {address} ({origin})",
            hint="start one: knarr up; or say where it is: TEMPORAL_ADDRESS=host:port",
        ) from error
    web_ui = os.environ.get("KNARR_WEB_UI") or (local.temporal_ui_url if local else None)
    # A queue that somebody named is used; the server of a folder has one of its own; else it is the default.
    task_queue = settings.task_queue
    if local is not None and "task_queue" not in settings.model_fields_set:
        task_queue = local.task_queue
    folder = None if local is not None else await _whose(client, address)
    if local is None and (note := _note(settings.state_dir, address, origin, folder)):
        Output(as_json=False, debug=False).say(note)
    return Service(client, address, web_ui.rstrip("/") if web_ui else None, task_queue, folder)


async def _whose(client: Client, address: str) -> Path | None:
    """The state folder whose server it is, if it is one's: those listen on this machine only."""
    if address.rpartition(":")[0] not in (LOOPBACK, "localhost"):
        return None
    try:
        described = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace)
        )
    except RPCError:
        return None
    said = described.namespace_info.data.get(FOLDER_KEY)
    return Path(said).parent if said else None


def _note(state_dir: Path, address: str, origin: str, folder: Path | None) -> str:
    """What somebody in this folder should know of a server that is not its own, or nothing."""
    if has_kept(state_dir / TEMPORAL_FOLDER) and folder != state_dir.resolve():
        return f"note: {address} is asked ({origin}), not this folder's own server, which keeps its runs in {state_dir}"
    if origin == DEFAULT and folder is not None:
        return f"note: what answers at {address} ({origin}) is the server of {folder}, another folder's"
    return ""


def locate(state_dir: Path) -> tuple[ClientConnectConfig, str, LocalServers | None]:
    """How to connect, where that was found, and the local servers if it is them.

    Raises:
        StarterError: exit 2, TEMPORAL_PROFILE or the profile file is wrong; exit 4, nobody said where, and this
            folder's own server, which keeps its runs, is down.
    """
    try:
        profile = ClientConfigProfile.load()
    except RuntimeError as error:
        raise StarterError(
            Exit.USAGE,
            f"Temporal's configuration can't be read: {error}",
            hint="check TEMPORAL_PROFILE and TEMPORAL_CONFIG_FILE, or: temporal config list",
        ) from error
    config = profile.to_client_connect_config()
    local = running(state_dir)
    if profile.address:
        origin = "TEMPORAL_ADDRESS" if os.environ.get("TEMPORAL_ADDRESS") else "the profile of Temporal's configuration"
        named = local is not None and local.temporal_address == profile.address
        return config, origin, local if named else None
    if local is not None and local.temporal_address:
        config["target_host"] = local.temporal_address
        config["namespace"] = local.temporal_namespace
        return config, f"the server of {state_dir}", local
    if has_kept(state_dir / TEMPORAL_FOLDER):
        raise StarterError(
            Exit.UNREACHABLE,
            f"this folder's Temporal server is down; its runs are kept in {state_dir}, and no other server knows them",
            hint="start it in another terminal: knarr up --worker; or go on with a run: knarr run PLAN. "
            f"To ask another server, say which: TEMPORAL_ADDRESS={DEFAULT_ADDRESS}",
        )
    return config, DEFAULT, None


async def ensure_search_attributes(client: Client) -> None:
    """Make sure that the namespace knows what a run writes; it may be called at every start.

    Raises:
        StarterError: exit 4, the service does not let us add them; the message names the command that does.
    """
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = sorted(SEARCH_ATTRIBUTES.keys() - known.custom_attributes.keys())
        if not missing:
            return
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes=dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
            )
        )
    except RPCError as error:
        if error.status is RPCStatusCode.ALREADY_EXISTS:
            return
        names = " ".join(f"--name {name} --type Keyword" for name in sorted(SEARCH_ATTRIBUTES))
        raise StarterError(
            Exit.UNREACHABLE,
            f"the search attributes of a run can't be looked up or added: {error.message}",
            hint=f"let an administrator do it: temporal operator search-attribute create {names}",
        ) from error
