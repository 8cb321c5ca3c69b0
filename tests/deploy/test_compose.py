"""docker-compose.yml, held to its schema and to what the house asks of it; containers are validated here, not run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from knarr.settings import Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"


class Dependency(BaseModel):
    condition: str
    required: bool = True


class Service(BaseModel):
    """The parts of a service that these tests look at."""

    model_config = ConfigDict(extra="allow")

    image: str
    environment: dict[str, str | None] = Field(default_factory=dict)
    depends_on: dict[str, Dependency] = Field(default_factory=dict)
    healthcheck: dict[str, object] | None = None
    ports: list[str] = Field(default_factory=list)
    volumes: list[str] = Field(default_factory=list)
    profiles: list[str] = Field(default_factory=list)
    restart: str = "no"
    container_name: str | None = None
    build: str | None = None

    @field_validator("depends_on", mode="before")
    @classmethod
    def no_short_form(cls, value: object) -> object:
        assert isinstance(value, dict), "depends_on as a list waits for a start, not for health"
        return value


class Compose(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    services: dict[str, Service]
    volumes: dict[str, object]


COMPOSE = Compose.model_validate(yaml.safe_load(FILE.read_text()))
SERVICES = [pytest.param(name, service, id=name) for name, service in COMPOSE.services.items()]


def test_the_file_meets_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_that_the_deployment_is_made_of_is_there() -> None:
    assert {
        "temporal-db",
        "temporal-schema",
        "temporal",
        "temporal-namespace",
        "temporal-ui",
    } <= COMPOSE.services.keys()
    assert {"worker", "cli", "source", "target"} <= COMPOSE.services.keys()


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_an_image_is_pinned_to_a_version(name: str, service: Service) -> None:
    image, _, tag = service.image.rpartition(":")
    assert image, f"{name}: {service.image} has no tag"
    assert re.match(r"\d", tag), f"{name}: {service.image} is not a version"


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_a_published_port_is_bound_to_this_machine_and_can_be_moved(name: str, service: Service) -> None:
    for port in service.ports:
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+_PORT:-\d+\}:\d+", port), f"{name}: {port}"


def test_no_two_published_ports_are_the_same_by_default() -> None:
    ports = [re.search(r":-(\d+)", port) for service in COMPOSE.services.values() for port in service.ports]
    numbers = [port[1] for port in ports if port]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_what_a_service_waits_for_can_come_about(name: str, service: Service) -> None:
    for other, dependency in service.depends_on.items():
        waited_for = COMPOSE.services[other]
        if dependency.condition == "service_healthy":
            assert waited_for.healthcheck, f"{name} waits for {other} to be healthy, and {other} has no health check"
        else:
            assert dependency.condition == "service_completed_successfully", f"{name}: {dependency.condition}"
            assert waited_for.restart.startswith("on-failure"), f"{other} must end for {name}, and restarts for ever"
        hidden = set(waited_for.profiles) - set(service.profiles)
        assert not hidden or not dependency.required, f"{name} requires {other}, which is only in profile {hidden}"


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_a_service_is_bounded_in_memory_and_in_its_log_and_has_no_fixed_name(name: str, service: Service) -> None:
    assert service.container_name is None, "a second copy of the project could not start"
    extra = service.model_extra or {}
    assert "mem_limit" in extra
    assert extra["logging"]["options"].keys() >= {"max-size", "max-file"}


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_what_is_mounted_exists(name: str, service: Service) -> None:
    for volume in service.volumes:
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), f"{name} mounts {source}"
            assert volume.endswith(":ro"), f"{name} can write to {source} of this checkout"
        else:
            assert source in COMPOSE.volumes, f"{name} mounts the volume {source}, which is not declared"


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_every_variable_of_ours_is_one_that_the_settings_know(name: str, service: Service) -> None:
    if service.build is None:
        return
    known = {f"KNARR_{field.upper()}" for field in Settings.model_fields}
    for variable in service.environment:
        if variable.startswith("KNARR_") and not re.fullmatch(r"KNARR_CONNECTION_[A-Z0-9_]+", variable):
            assert variable in known, f"{name} sets {variable}, which nothing reads"


def test_the_file_works_without_an_env_file() -> None:
    text = "\n".join(line.split("#")[0] for line in FILE.read_text().splitlines())
    for variable in re.findall(r"(?<!\$)\$\{[^}]*", text):
        assert ":-" in variable, f"{variable}}} has no default"


def test_a_worker_can_be_scaled_and_is_given_both_connections() -> None:
    worker = COMPOSE.services["worker"]
    assert not worker.ports, "a published port can be bound once"
    assert {"KNARR_CONNECTION_LEGACY", "KNARR_CONNECTION_SHOP", "TEMPORAL_ADDRESS"} <= worker.environment.keys()
    assert not worker.profiles


def test_the_new_postgres_image_is_mounted_above_its_version() -> None:
    for name, service in COMPOSE.services.items():
        image, _, version = service.image.partition(":")
        if image == "postgres":
            folders = [volume.split(":")[1] for volume in service.volumes]
            expected = "/var/lib/postgresql" if int(version) >= 18 else "/var/lib/postgresql/data"
            assert folders == [expected], f"{name}: {service.image} would lose its data or refuse to start"
