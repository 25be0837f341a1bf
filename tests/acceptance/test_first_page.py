"""The page at ``/`` in a real browser: readable without a key, whole with one, kept by its policy, used by keyboard."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.chromium import PROGRAM, Page, chromium
from tests.support.started_node import StartedNode

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (Debian: chromium)"),
    pytest.mark.timeout(280),
]


@asynccontextmanager
async def opened(node: StartedNode, width: int = 1200) -> AsyncIterator[Page]:
    async with chromium() as page:
        await page.size(width, 900)
        await page.open(f"{node.url}/")
        yield page
        assert page.complaints == []
        assert [each for each in page.asked if not each.startswith((node.url, "data:"))] == []


async def show(page: Page, key: str) -> None:
    """Type a key and send it, with the keyboard alone."""
    for _ in range(10):
        await page.press("Tab")
        if await page.evaluate("document.activeElement.id === 'key'"):
            break
    await page.type(key)
    await page.press("Enter")


async def text(page: Page, selector: str) -> str:
    return await page.evaluate(f"document.querySelector({selector!r}).innerText")


async def test_without_a_key_it_tells_of_health_and_of_nothing_else(node: StartedNode) -> None:
    async with opened(node) as page:
        await page.until("document.querySelectorAll('#health dd').length >= 5")
        assert "postgres" in await text(page, "#health")
        for hidden in ("alerts", "traffic", "money", "models", "budgets", "capacity"):
            assert await page.evaluate(f"document.getElementById('{hidden}').hidden")
        assert not any("/node/v1/" in each for each in page.asked)


async def test_with_an_admins_key_it_shows_everything_and_keeps_the_key_in_this_tab_only(node: StartedNode) -> None:
    async with opened(node) as page:
        await show(page, node.key)
        await page.until("!document.getElementById('capacity').hidden")
        assert "treasury" in await text(page, "#money")
        assert "up/echo" in await text(page, "#models")
        assert "availability" in await text(page, "#budgets")
        assert "memory" in await text(page, "#capacity")
        assert node.key not in await page.evaluate("document.documentElement.outerHTML")
        assert await page.evaluate("[localStorage.length, document.cookie, document.getElementById('key').value]") == [
            0,
            "",
            "",
        ]
        assert await page.evaluate("sessionStorage.length") == 1
        assert await page.evaluate("document.getElementById('door').hidden")
        await page.evaluate("document.getElementById('forget').click()")
        assert await page.evaluate("sessionStorage.length") == 0
        assert await page.evaluate("document.getElementById('money').hidden")


async def test_a_users_key_shows_its_own_money_only_and_a_wrong_one_says_so(node: StartedNode) -> None:
    _, user = node.new_client("page reader")
    async with opened(node) as page:
        await show(page, user)
        await page.until("!document.getElementById('money').hidden")
        assert "treasury" not in await text(page, "#money")
    async with chromium() as page:
        await page.open(f"{node.url}/")
        await show(page, "prsm_wrong")
        await page.until("document.getElementById('problem').textContent")
        assert not await page.evaluate("document.getElementById('door').hidden")
        assert await page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("width", [360, 768, 1200])
async def test_it_fits_its_window_and_every_part_has_a_name(node: StartedNode, width: int) -> None:
    async with opened(node, width) as page:
        await show(page, node.key)
        await page.until("!document.getElementById('capacity').hidden")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        named = await page.names()
        assert {name for role, name in named if role == "heading"} >= {"PRSM node", "Health", "Traffic", "Money"}
        nameless = [role for role, name in named if role in ("button", "textbox", "link", "region") and not name]
        assert nameless == []


@pytest.mark.parametrize("dark", [False, True])
async def test_text_can_be_read_in_both_lights(node: StartedNode, dark: bool) -> None:
    """Contrast of WCAG 2.2, 1.4.3: 4.5 to 1 for every text that is shown."""
    async with opened(node) as page:
        await page.size(1200, 900, dark=dark)
        await show(page, node.key)
        await page.until("!document.getElementById('capacity').hidden")
        await asyncio.sleep(0.3)
        found = await page.evaluate(_COLOURS)
        low = [(shown, round(contrast(front, back), 2)) for shown, front, back in found if contrast(front, back) < 4.5]
        assert len(found) > 50
        assert low == []


def contrast(front: str, back: str) -> float:
    brighter, darker = sorted((luminance(front), luminance(back)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# Each text that is shown, its colour, and the first background behind it that is not transparent.
_COLOURS = """
[...document.querySelectorAll('body *')].filter(one => one.offsetParent && one.tagName !== 'SCRIPT' &&
  [...one.childNodes].some(inside => inside.nodeType === 3 && inside.textContent.trim())).map(one => {
  let behind = one;
  const clear = () => /, 0\\)$|transparent/.test(getComputedStyle(behind).backgroundColor);
  while (clear() && behind.parentElement) behind = behind.parentElement;
  return [one.textContent.trim().slice(0, 40), getComputedStyle(one).color, getComputedStyle(behind).backgroundColor];
})
"""
