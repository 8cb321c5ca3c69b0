"""Asking both sides at once, or one after the other where they share a connection."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Pair(Protocol):
    """Awaits two coroutines and gives both results."""

    async def __call__(self, left: Coroutine[Any, Any, A], right: Coroutine[Any, Any, B], /) -> tuple[A, B]:
        """The left result and the right one."""
        ...


async def both(left: Coroutine[Any, Any, A], right: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Runs two queries on two connections at once; when one fails the other is cancelled before the error goes on."""
    first, second = asyncio.ensure_future(left), asyncio.ensure_future(right)
    try:
        return await asyncio.gather(first, second)
    except BaseException:
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        raise


async def in_turn(left: Coroutine[Any, Any, A], right: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Runs the left one, then the right one."""
    try:
        first = await left
    except BaseException:
        right.close()
        raise
    return first, await right
