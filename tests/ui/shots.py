"""What a picture is to show: the message from a test to the process with the browser."""

from typing import TypedDict


class Shot(TypedDict):
    """One picture: its name, the page, and texts that must be seen on it before it is taken.

    `stored` is put into the browser's local storage first, and stays there; `framed` must be seen in a frame of the
    page, where the Web UI draws markdown; `follow` is a link in such a frame: the picture is of the page that it leads
    to, once that shows `arrived`.
    """

    name: str
    url: str
    ready: list[str]
    framed: list[str]
    follow: str
    arrived: str
    stored: dict[str, str]
