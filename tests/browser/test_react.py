"""The React hook with React 18 and 19, in an application bundled by esbuild."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.client import has_seen, has_streams, sentinel
from tests.browser.javascript import EACH_REACT, SITE, SOURCES, bundle, modules_in, run
from tests.browser.pages import EVENTS, Pages
from tests.support.api import Api
from tests.support.tokens import user_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser-react")]

MANY = 40  # events


@pytest.fixture(params=EACH_REACT)
def react(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


async def application(api: Api, pages: Pages, react: str, **props: Any) -> Page:
    """The application, rendered with these props."""
    page = await pages.blank(api.instance.url)
    await page.add_script_tag(content=bundle(SOURCES / "app.jsx", react))
    await show(page, **props)
    return page


async def show(page: Page, **props: Any) -> None:
    """Render with these props."""
    await page.evaluate("show", {"name": "page", "share": False, **props})


async def is_live(page: Page) -> None:
    await page.wait_for_function("view()?.state === 'live'")


async def seen(page: Page) -> list[list[Any]]:
    events: list[list[Any]] = await page.evaluate("seen")
    return events


async def test_strict_mode_opens_one_stream_and_unmount_ends_it(make_api: Any, pages: Pages, react: str) -> None:
    api = make_api()
    page = await application(api, pages, react)
    await is_live(page)
    await has_streams(api, 1)
    api.publish({"type": "note", "data": 1})
    await has_seen(page, 1)
    await page.evaluate("show(null)")
    await has_streams(api, 0)
    api.publish({"type": "note", "data": 2})
    await sentinel(page)
    assert await seen(page) == [["page", 1]]


async def test_a_component_resumes_when_mounted_again(make_api: Any, pages: Pages, react: str) -> None:
    api = make_api()
    page = await application(api, pages, react)
    await is_live(page)
    api.publish({"type": "note", "data": 1})
    await has_seen(page, 1)
    await page.evaluate("show(null)")
    api.publish({"type": "note", "data": 2})
    await show(page)
    await has_seen(page, 2)
    await page.evaluate("show(null)")
    api.publish({"type": "note", "data": 3})
    await show(page, resume=False)
    await is_live(page)
    api.publish({"type": "note", "data": 4})
    await has_seen(page, 3)
    assert await seen(page) == [["page", 1], ["page", 2], ["page", 4]]
    assert await page.evaluate("gaps") == []


async def test_a_change_of_types_resumes(make_api: Any, pages: Pages, react: str) -> None:
    """Events between the last one and the change are not lost. The same types in another order do not reconnect."""
    api = make_api()
    page = await application(api, pages, react, types=["one"])
    await is_live(page)
    api.publish({"type": "one", "data": 1})
    await has_seen(page, 1)
    api.publish({"type": "two", "data": 2})
    async with page.expect_request(f"**{EVENTS}?types=one%2Ctwo*"):
        await show(page, types=["one", "two"])
    await has_seen(page, 2)
    await show(page, types=["two", "one"])
    api.publish({"type": "one", "data": 3})
    await has_seen(page, 3)
    assert await seen(page) == [["page", 1], ["page", 2], ["page", 3]]
    await has_streams(api, 1)


@pytest.mark.parametrize("by", ["token", "tokenBy"])
async def test_the_next_user_gets_no_event_of_the_last(guarded: Api, pages: Pages, react: str, by: str) -> None:
    """Without the `user` option, u2's page would get u1's events until u1's token was renewed."""

    def signed_in(user: str) -> dict[str, str]:
        return {"name": user, "user": user, by: user_token(user), "share": ""}

    page = await application(guarded, pages, react, **signed_in("u1"))
    await is_live(page)
    guarded.publish({"type": "note", "data": "for u1", "userIds": ["u1"]})
    await has_seen(page, 1)
    assert await page.evaluate("view().gaps") == 0

    await show(page, **signed_in("u2"))
    guarded.publish({"type": "note", "data": "still for u1", "userIds": ["u1"]})
    await is_live(page)
    guarded.publish({"type": "note", "data": "for u1 again", "userIds": ["u1"]})
    guarded.publish({"type": "note", "data": "for u2", "userIds": ["u2"]})
    await has_seen(page, 2)
    await has_streams(guarded, 1)

    await show(page, **signed_in("u1"))  # u1 resumes
    await has_seen(page, 4)
    assert await seen(page) == [
        ["u1", "for u1"],
        ["u2", "for u2"],
        ["u1", "still for u1"],
        ["u1", "for u1 again"],
    ]
    await page.evaluate("show(null)")
    await has_streams(guarded, 0)


RECORD_ABORTS = """() => {
  window.aborted = {};
  const signals = [];
  const { fetch } = window;
  window.fetch = (target, options) => {
    if (String(target).includes("/api/events")) signals.push(options.signal);
    return fetch(target, options);
  };
  window.committed = (name) => { aborted[name] = signals.map((signal) => signal.aborted); };
}"""


async def test_a_stream_ends_in_the_commit_of_the_next_user(guarded: Api, pages: Pages, react: str) -> None:
    """Not in an effect after the paint: an event in between would be shown to the next user."""
    page = await pages.blank(guarded.instance.url)
    await page.evaluate(RECORD_ABORTS)
    await page.add_script_tag(content=bundle(SOURCES / "app.jsx", react))
    await show(page, name="u1", token=user_token("u1"))
    await is_live(page)
    await show(page, name="u2", token=user_token("u2"))
    await page.wait_for_function("'u2' in aborted")
    assert await page.evaluate("aborted") == {"u1": [], "u2": [True]}
    await is_live(page)
    await page.evaluate("show(null)")
    await has_streams(guarded, 0)


async def test_a_new_token_of_the_same_user_resumes(guarded: Api, pages: Pages, react: str) -> None:
    page = await application(guarded, pages, react, token=user_token("u1", exp=int(time.time()) + 600))
    await is_live(page)
    guarded.publish({"type": "note", "data": 1, "userIds": ["u1"]})
    await has_seen(page, 1)
    await show(page, enabled=False, token=user_token("u1"))
    await page.wait_for_function("view().state === 'closed'")
    await has_streams(guarded, 0)
    guarded.publish({"type": "note", "data": 2, "userIds": ["u1"]})
    await show(page, token=user_token("u1"))
    await has_seen(page, 2)
    assert [data for _, data in await seen(page)] == [1, 2]
    assert await page.evaluate("gaps") == []
    await page.evaluate("show(null)")
    await has_streams(guarded, 0)


async def test_events_render_only_with_track_last(api: Api, pages: Pages, react: str) -> None:
    page = await application(api, pages, react)
    await is_live(page)
    before = await page.evaluate("renders")
    for number in range(MANY):
        api.publish({"type": "note", "data": number})
    await has_seen(page, MANY)
    assert await page.evaluate("renders") == before
    assert await page.evaluate("view().last") is None

    await show(page, trackLast=True)
    api.publish({"type": "note", "data": "shown"})
    await page.wait_for_function("view().last === 'shown'")


async def test_the_hook_passes_all_options_to_connect(api: Api, pages: Pages, react: str) -> None:
    kind = f"passed-{react}"
    api.publish({"type": kind, "data": 1}, {"type": "other", "data": 2}, {"type": kind, "data": 3, "userIds": ["u9"]})
    options = {
        "userId": "u9",
        "types": kind,
        "from": "earliest",
        "format": "cloudevents",
        "mode": "poll",
        "every": 1000,
    }
    page = await application(api, pages, react, **options)
    await has_seen(page, 2)
    api.publish({"type": kind, "data": 4})
    await has_seen(page, 3)
    assert [data for _, data in await seen(page)] == [1, 3, 4]
    assert await page.evaluate("view().mode") == "poll"


async def test_the_hook_accepts_a_signal_and_a_set(make_api: Any, pages: Pages, react: str) -> None:
    api = make_api()
    page = await application(api, pages, react)
    async with page.expect_request(f"**{EVENTS}?types=one%2Ctwo*"):
        await page.evaluate("showWithSet()")
    await is_live(page)
    await page.evaluate("showWithSignal()")
    await is_live(page)
    await has_streams(api, 1)
    await page.evaluate("aborter.abort()")
    await page.wait_for_function("view().state === 'closed'")
    await has_streams(api, 0)
    await page.evaluate("show(null)")
    await page.evaluate("showWithSignal()")
    await page.wait_for_function("view()?.state === 'closed'")


async def test_the_hook_shows_a_refusal_and_retries(guarded: Api, pages: Pages, react: str) -> None:
    pages.expect(r"status of 401 .*/api/events")
    page = await application(guarded, pages, react, token="not.a.token")
    await page.wait_for_function("view().state === 'denied'")
    assert await page.evaluate("view().failure") == (await page.evaluate("failures"))[0]
    await page.evaluate("document.getElementById('view').click()")
    await page.wait_for_function("failures.length === 2")
    await show(page, token=user_token("u1"))
    await is_live(page)
    assert await page.evaluate("view().failure") is None


async def test_a_token_function_without_a_user_throws(api: Api, pages: Pages, react: str) -> None:
    pages.expect("useRealtime: `user` is required", "The above error occurred", "An error occurred in the <Follower>")
    page = await pages.blank(api.instance.url)
    await page.add_script_tag(content=bundle(SOURCES / "app.jsx", react))
    async with page.expect_event("pageerror"):
        await show(page, tokenBy="a.b.c")


async def test_the_hook_passes_the_lint_of_react(tmp_path: Path) -> None:
    """A second run proves that the lint detects an error."""
    folder = modules_in(tmp_path)
    for file in (SITE / "react.js", SOURCES / "app.jsx", SOURCES / "eslint.config.js"):
        shutil.copy(file, folder)
    done = run("eslint", "--max-warnings=0", ".", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr

    hook = (folder / "react.js").read_text()
    broken = hook.replace("  useInsertionEffect(() => {", "  latest.current = options;\n  useInsertionEffect(() => {")
    assert broken != hook
    (folder / "react.js").write_text(broken)
    assert "react-hooks/refs" in run("eslint", ".", cwd=folder).stdout, "the lint does not detect the error"
