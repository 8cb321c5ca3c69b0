"""Where Temporal is: its environment and profiles, else the server of this folder, else its default address."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig
from temporalio.service import RPCError, RPCStatusCode

from knarr.local.state import LocalServers, running
from knarr.local.temporal import SEARCH_ATTRIBUTES
from knarr.settings import Settings
from starter.exits import Exit
from starter.failures import StarterError

DEFAULT_ADDRESS: Final = "127.0.0.1:7233"
CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Service:
    """A Temporal service that answered."""

    client: Client
    address: str
    web_ui: str | None
    task_queue: str  # where its workers are to be found

    def link(self, workflow_id: str) -> str | None:
        """The Web UI's page of a workflow."""
        if self.web_ui is None:
            return None
        return f"{self.web_ui}/namespaces/{self.client.namespace}/workflows/{workflow_id.replace('/', '%2F')}"


async def connect(settings: Settings) -> Service:
    """Connect to Temporal.

    Raises:
        StarterError: exit 2, the profile can't be read; exit 4, nobody answers at the address.
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
    return Service(client, address, web_ui.rstrip("/") if web_ui else None, task_queue)


def locate(state_dir: Path) -> tuple[ClientConnectConfig, str, LocalServers | None]:
    """How to connect, where that was found, and the local servers if it is them.

    Raises:
        StarterError: exit 2, TEMPORAL_PROFILE or the profile file is wrong.
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
    return config, "the default address", None


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
