"""The stage of the saga tests, for tests that break things on it."""

from tests.saga.conftest import scene as scene
