"""Takes pictures of pages with Debian's Chromium, and writes the text that each shows beside it.

    python -m tests.ui.shoot FOLDER

It reads sets of pictures, one JSON list a line, and answers each with a line. A process of its own: one that used
temporalio may crash while it ends, and would take a test with it. It waits for text that can be seen, never for
silence on the network (the Web UI asks for news for ever) and never by sleeping.
"""

import json
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from tests.ui.shots import Shot

CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    # No machine but this one: the Web UI asks for news. (Routes in Playwright would do it, but turn the cache off.)
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
PATIENCE_SECONDS: Final = 30.0
TAKEN: Final = "taken"
NOWHERE: Final = "about:blank"
# The Web UI answers a click on a link to itself without loading itself again: 0.2 s a page where a load takes 2 s.
CLICK: Final = """url => {
    const link = document.createElement('a')
    link.href = url
    document.body.append(link)
    link.click()
    link.remove()
}"""


def main(folder: Path) -> None:
    """Take every picture in one window of one browser, until there are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = window(browser).new_page()
        for line in sys.stdin:
            for shot in json.loads(line):
                go(page, shot)
                take(page, folder, shot)
            print(TAKEN, flush=True)
        browser.close()


def window(browser: Browser) -> BrowserContext:
    """Always the same size, time zone and language, without movement; as wide as an operator's."""
    return browser.new_context(
        viewport={"width": 1600, "height": 1200},
        timezone_id="UTC",
        locale="en-GB",
        reduced_motion="reduce",
        color_scheme="light",
    )


def go(page: Page, shot: Shot) -> None:
    """Go to the page of a picture; what another page showed before is gone then.

    What the same workflow showed before may not be: so a picture waits for the newest that it is to show.
    """
    if page.url == NOWHERE or shot["stored"]:
        stored = json.dumps(shot["stored"])
        page.add_init_script(f"for (const [key, value] of Object.entries({stored})) localStorage.setItem(key, value)")
        page.goto(shot["url"], wait_until="domcontentloaded")
        return
    page.evaluate(CLICK, shot["url"])
    page.wait_for_function("path => location.pathname === path", arg=urllib.parse.urlsplit(shot["url"]).path)


def take(page: Page, folder: Path, shot: Shot) -> None:
    """Take one picture, and write the text beside it."""
    shown = page
    try:
        for text in shot["ready"]:
            see(page, text)
        wait_for_frames(page, shot["framed"])
        if shot["follow"]:
            shown = follow(page, shot["follow"])
            see(shown, shot["arrived"])
        shown.evaluate("document.fonts.ready")
    finally:
        # Also of a page that did not become ready: it says why.
        shown.screenshot(path=folder / f"{shot['name']}.png", animations="disabled")
        (folder / f"{shot['name']}.txt").write_text(text_of(shown))
    if shown is not page:
        shown.close()


def see(page: Page, text: str) -> None:
    """Wait until a text can be seen; hidden copies of a menu come before what is on the page."""
    found = page.get_by_text(text).filter(visible=True).first
    expect(found).to_be_visible(timeout=PATIENCE_SECONDS * 1_000)


def follow(page: Page, link: str) -> Page:
    """Click a link in whichever frame has it; it opens a page of its own."""
    for frame in page.frames:
        found = frame.get_by_role("link", name=link)
        if found.count():
            with page.expect_popup() as opened:
                found.first.click()
            return opened.value
    raise LookupError(f"no frame of {page.url} has the link {link!r}")


def wait_for_frames(page: Page, texts: list[str]) -> None:
    """Wait until each text stands in some frame of the page."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    missing = texts
    while missing:
        framed = framed_text(page)
        missing = [text for text in missing if text not in framed]
        if missing and time.monotonic() > deadline:
            raise TimeoutError(f"no frame of {page.url} shows {missing}; they show: {framed}")
        page.wait_for_timeout(50)


def framed_text(page: Page) -> str:
    """The text of all frames but the page itself. The Web UI replaces a frame when its markdown changes."""
    texts: list[str] = []
    for frame in page.frames:
        try:
            if frame is not page.main_frame:
                texts.append(frame.locator("body").inner_text())
        except Error:
            if not frame.is_detached():
                raise
    return "\n".join(texts)


def text_of(page: Page) -> str:
    """What a person can read on the page, frames included."""
    return f"{page.locator('body').inner_text()}\n{framed_text(page)}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
