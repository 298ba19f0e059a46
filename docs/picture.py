"""Make docs/captions.png: the page's tab "Live captions" at work, in headless Chromium.

``make demo`` in one shell; in another, with playwright installed, ``python docs/picture.py --chromium PATH``.
"""

import argparse
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).with_name("captions.png")
PATIENCE_S = 150.0
COLOURS = 64
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream"]


def main() -> int:
    """Have the page caption its own example, and write what it shows meanwhile."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="of the page; default: %(default)s")
    parser.add_argument("--chromium", metavar="PATH", help="of the browser; default: playwright's own")
    parser.add_argument("--after", type=float, default=2.0, metavar="S", help="of captions; default: %(default)s")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # not needed for anything else

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1100, "height": 640})
        page.set_default_timeout(1000 * PATIENCE_S)
        page.goto(args.url)
        page.get_by_role("tab", name="Live captions").click()
        page.get_by_role("button", name="Caption the recording").click()
        page.locator(".sn-captions td").filter(has_text=" ").first.wait_for()
        page.wait_for_timeout(1000 * args.after)
        picture = Image.open(BytesIO(page.screenshot()))
        browser.close()
    picture.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
