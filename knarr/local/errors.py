"""What the embedded servers raise when they cannot be found, started, stopped or asked."""

from knarr.errors import KnarrError


class LocalServerError(KnarrError):
    """A server of this machine's own could not be found, started, stopped or asked; the hint names the way out."""
