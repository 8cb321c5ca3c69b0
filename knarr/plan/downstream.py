"""What must be seen downstream: by those who live on the data, once it has been moved."""

import urllib.parse
from typing import Annotated, Final

from pydantic import Field, JsonValue, model_validator

from knarr.plan.model import Model
from knarr.plan.problems import Refusal, quoted
from knarr.plan.texts import FUNCTION_PATTERN, Alias, Duration, Query, holds, refusing

_KINDS: Final = ("http", "query", "redis", "function")


def _check_url(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise Refusal(quoted(url), "a URL: http://host:port/path") from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Refusal(quoted(url), "a URL that begins with http:// or https://")
    if "@" in parts.netloc:
        raise Refusal(quoted(url), "a URL without credentials: a plan holds no secret")
    if not parts.hostname:
        raise Refusal(quoted(url), "a URL that names a host")
    try:
        _ = parts.port
    except ValueError:
        raise Refusal(quoted(url), "a port from 0 to 65535 after the host's name") from None
    if " " in url or not url.isprintable() or not f"{parts.path}{parts.query}".isascii():
        raise Refusal(quoted(url), "a URL whose special characters are percent-encoded: %20 is a blank")


def _check_pointer(pointer: str) -> None:
    if pointer and not pointer.startswith("/"):
        raise Refusal(quoted(pointer), "a JSON Pointer, which begins with /", f"Did you mean {quoted('/' + pointer)}?")


class Endpoint(Model):
    """An HTTP endpoint and what its JSON must say at one place."""

    url: Annotated[str, holds(_check_url)] = Field(description="without credentials: a plan holds no secret")
    pointer: Annotated[str, holds(_check_pointer)] = Field(default="", description="JSON Pointer (RFC 6901) into it")
    equals: JsonValue = Field(description="the value that must be there")


class OtherQuery(Model):
    """A query on another database, and the query on the target whose answer it must equal."""

    alias: Alias
    query: Query = Field(description="a SELECT on that alias")
    target: Query = Field(description="a SELECT on the target")
    tolerance: float = Field(default=0.0, ge=0, description="largest absolute difference of two numbers")


class RedisKey(Model):
    """A Redis string, and what it must hold."""

    alias: Alias = Field(description="a connection whose address is redis://host:port/database")
    key: str = Field(min_length=1, description="of a string")
    equals: str | None = Field(description="the value that must be there; nothing: the key must be gone")


class DownstreamCheck(Model):
    """One thing that must be seen downstream: exactly one of `http`, `query`, `redis` and `function`."""

    name: str = Field(min_length=1, description="what it shows, for people")
    http: Endpoint | None = Field(default=None, description="JSON of an HTTP endpoint")
    query: OtherQuery | None = Field(default=None, description="a query on any other connection")
    redis: RedisKey | None = Field(default=None, description="a key of a Redis server")
    function: str | None = Field(
        default=None, pattern=FUNCTION_PATTERN, description="module:function; called without arguments, gives problems"
    )
    within: Duration = Field(default="0s", description="asked again until it holds or this long has passed")
    every: Duration = Field(default="1s", description="the pause between two tries")

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: object) -> object:
        return refusing(_exactly_one, value)


def _exactly_one(value: object) -> object:
    if isinstance(value, dict):
        given = [kind for kind in _KINDS if value.get(kind) is not None]
        if len(given) != 1:
            raise Refusal(" and ".join(given) or "none of them", f"exactly one of {', '.join(_KINDS)}")
    return value
