"""The search page in Chromium: searching, filtering, the keyboard, hostile names, narrow screens, the key."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nemotron_rag import Page, PageIndex
from nemotron_rag.serve.served import Served, ServeSettings
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakePageStore, FakeReranker
from nemotron_rag.types import WordBoxes
from support.serving import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]

KEY = "t0psecret"
HOSTILE = "x/<img src=y onerror=\"document.title='taken'\">'\u202efdp.exe\n.pdf"
WAIT = 30_000  # milliseconds; as long as a busy machine takes


def sheet(text: str) -> Image.Image:
    image = Image.new("RGB", (300, 400), "white")
    ImageDraw.Draw(image).text((20, 30), text, fill="black")
    return image


PAGES = [
    Page(
        id=f"a{n}",
        source="fruit/apples.pdf",
        number=n,
        text=f"red apples, part {n}\nwhales",
        image=sheet(f"apples {n}"),
        word_boxes=WordBoxes(
            ("red", "apples", "<b>whales</b>"),
            np.array([[0.1, 0.1, 0.2, 0.15], [0.21, 0.1, 0.4, 0.15], [0.5, 0.6, 0.8, 0.7]], np.float32),
            np.array([0, 0, 1], np.int32),
        ),
    )
    for n in (1, 2, 3)
]
PAGES += [
    Page(id="w", source="sea.pdf", number=1, text="blue whales eat krill <script>document.title='taken'</script>"),
    Page(id="../h", source=HOSTILE, number=7, text="green apples", image=sheet("hostile")),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    images = tmp_path_factory.mktemp("images")
    models = {"embedder": FakeMultiVectorEmbedder(), "reranker": FakeReranker()}
    with PageIndex(store=FakePageStore(), **models, images=images) as found:
        found.add(PAGES, progress=False)
        yield found


@pytest.fixture(scope="module")
def url(index):
    with serving(Served(index=index)) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser, url):
    """A tab in which nothing may go wrong, and no other server is asked."""
    wrong = []
    with browser.new_context(viewport={"width": 1000, "height": 800}) as context:
        context.set_default_timeout(WAIT)
        tab = context.new_page()
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda message: wrong.append(message.text) if is_error(message) else None)
        tab.on("request", lambda request: None if request.url.startswith((url, "blob:")) else wrong.append(request.url))
        tab.goto(url)
        yield tab
        assert tab.title() == "Search pages"
        assert wrong == []


def is_error(message) -> bool:
    return message.type == "error" and "ERR_FAILED" not in message.text  # of a request that a test lets fail


def search(page, query: str, *, found: int) -> None:
    page.get_by_role("searchbox").fill(query)
    page.keyboard.press("Enter")
    words = f"{found} {'page' if found == 1 else 'pages'} found" if found else "No page was found."
    page.get_by_role("status").filter(has_text=words).wait_for()


def test_pages_are_found_as_the_index_finds_them(page, index):
    page.get_by_text("5 pages of 3 documents").wait_for()
    search(page, "red apples", found=5)
    hits = index.search("red apples", k=10)
    cards = page.locator(".hit")
    for card, hit in zip(cards.all(), hits, strict=True):
        shown = card.inner_text()
        assert f"page {hit.page.number}" in shown
        assert f"reranker\n{hit.score:.3f}" in shown.replace(" ", "")
        assert f"retrieval\n{hit.retrieval_score:.3f}" in shown.replace(" ", "")
    assert cards.first.locator("mark").all_inner_texts() == ["apples"]
    page.locator(".hit img[alt='apples.pdf, page 1']").wait_for()
    size = page.locator(".hit img[alt='apples.pdf, page 1']").evaluate("image => [image.naturalWidth]")
    assert size == [300]


def test_without_reranking_there_is_one_score(page):
    page.get_by_label("Rerank").uncheck()
    search(page, "red apples", found=5)
    assert page.locator(".hit").first.locator("dt").all_inner_texts() == ["retrieval"]
    assert "rerank=no" in page.url


def test_one_document_is_searched_by_name_by_part_and_from_a_hit(page):
    page.get_by_label("Document, or part of its name").fill("sea.pdf")
    search(page, "red apples", found=1)
    page.get_by_label("Document, or part of its name").fill("fruit")
    search(page, "red apples", found=3)
    page.get_by_label("Document, or part of its name").fill("nowhere")
    search(page, "red apples", found=0)
    page.get_by_label("Document, or part of its name").fill("")
    search(page, "krill", found=5)
    page.locator(".hit", has_text="sea.pdf").get_by_role("button", name="Only this document").click()
    page.get_by_role("status").filter(has_text="1 page found").wait_for()
    page.go_back()
    page.get_by_role("status").filter(has_text="5 pages found").wait_for()
    assert page.get_by_label("Document, or part of its name").input_value() == ""


def test_the_keyboard_reaches_everything(page):
    def focused() -> str:
        return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id")

    page.wait_for_function("document.activeElement.id === 'query'")  # once the server has said what it has
    search(page, "red apples", found=5)
    names = [button.get_attribute("aria-label") for button in page.locator(".hit .open").all()]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert focused() == names[1]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert focused() == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title")
    assert title.inner_text() == f"1. {names[0].removeprefix('Open ')}"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == f"2. {names[1].removeprefix('Open ')}"
    page.keyboard.press("Escape")
    title.wait_for(state="hidden")
    assert focused() == names[1]


def test_where_a_page_matches_is_painted_and_taken_back(page):
    search(page, "red apples", found=5)
    card = page.locator(".hit", has_text="apples.pdf").first
    where = card.get_by_role("button", name="Where it matches")
    where.click()
    card.locator("img[alt$=': where it matches']").wait_for()
    page.wait_for_function("document.querySelector('.where').getAttribute('aria-pressed') === 'true'")
    assert card.locator(".regions li").first.inner_text() == "red apples"
    assert_framed(card, [(0.1, 0.1, 0.4, 0.15)])
    where.click()
    card.locator("img[alt$=': where it matches']").wait_for(state="detached")
    assert where.get_attribute("aria-pressed") == "false"
    without_image = page.locator(".hit", has_text="sea.pdf")
    assert without_image.get_by_role("button", name="Where it matches").count() == 0


def assert_framed(part, boxes) -> None:
    """Frames lie around these boxes of the image, whatever its size."""
    image = part.locator(".sheet img").bounding_box()
    for frame, box in zip(part.locator(".box").all()[: len(boxes)], boxes, strict=True):
        shown = frame.bounding_box()
        left, top, right, bottom = shown["x"], shown["y"], shown["x"] + shown["width"], shown["y"] + shown["height"]
        for side, share, start, length in zip(
            (left, top, right, bottom),
            box,
            (image["x"], image["y"]) * 2,
            (image["width"], image["height"]) * 2,
            strict=True,
        ):
            assert side == pytest.approx(start + share * length, abs=6)  # pixels: frame and space


@pytest.fixture(scope="module")
def plain_url(tmp_path_factory):
    """A server whose model has no token vectors."""
    images = tmp_path_factory.mktemp("plain")
    with PageIndex(store=FakePageStore(), embedder=FakeEmbedder(), images=images) as found:
        found.add(PAGES, progress=False)
        with serving(Served(index=found)) as url:
            yield url


@pytest.mark.parametrize("width", [1000, 320])
def test_regions_are_framed_and_listed_without_token_vectors_too(browser, plain_url, width):
    with browser.new_context(viewport={"width": width, "height": 800}) as context:
        context.set_default_timeout(WAIT)
        page = context.new_page()
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url.removeprefix(plain_url)))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if is_error(message) else None)
        page.goto(plain_url)
        search(page, "whales", found=5)
        card = page.locator(".hit", has_text="apples.pdf").first
        card.locator("img[alt]:not([alt=''])").wait_for()
        card.get_by_role("button", name="Where it matches").click()
        card.get_by_role("listitem").wait_for()
        assert card.get_by_role("listitem").all_inner_texts() == ["<b>whales</b>"]
        assert_framed(card, [(0.5, 0.6, 0.8, 0.7)])
        assert "/v1/heatmap" not in asked
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        card.get_by_role("button", name="Where it matches").click()
        card.get_by_role("listitem").wait_for(state="detached")
        assert card.locator(".box").count() == 0
        card.get_by_role("button", name="Open").click()
        viewer = page.locator("#viewer")
        viewer.locator("img[alt]:not([alt=''])").wait_for()
        viewer.get_by_role("button", name="Where it matches").click()
        viewer.get_by_role("listitem").wait_for()
        assert_framed(viewer, [(0.5, 0.6, 0.8, 0.7)])
        viewer.get_by_role("button", name="Next").click()
        assert viewer.locator(".box").count() == 0
        assert wrong == []


def test_a_region_without_text_is_described_by_its_place(page):
    search(page, "red apples", found=5)
    card = page.locator(".hit", has_text="apples.pdf").first
    hot = {"box": [0.25, 0.5, 0.75, 0.875], "score": 1.0, "text": "", "evidence": "vectors"}
    page.route("**/v1/regions", lambda route: route.fulfill(json={"query": "red apples", "regions": [hot]}))
    card.get_by_role("button", name="Where it matches").click()
    card.get_by_role("listitem").wait_for()
    assert card.get_by_role("listitem").inner_text() == "no text, 25 % from the left and 50 % from the top"
    assert_framed(card, [(0.25, 0.5, 0.75, 0.875)])


def test_a_page_without_regions_and_a_server_that_fails_say_so(page):
    search(page, "red apples", found=5)
    card = page.locator(".hit", has_text="apples.pdf").first
    where = card.get_by_role("button", name="Where it matches")
    empty = {"query": "red apples", "regions": []}
    page.route("**/v1/regions", lambda route: route.fulfill(json=empty))
    where.click()
    card.get_by_text("Nothing on this page stands out").wait_for()
    where.click()
    card.get_by_text("Nothing on this page stands out").wait_for(state="detached")
    page.route("**/v1/regions", lambda route: route.abort())
    where.click()
    card.get_by_text("The server cannot be reached.").wait_for()
    assert card.locator("img").count() == 1


def test_hostile_names_and_texts_are_shown_and_do_nothing(page):
    page.get_by_label("Document, or part of its name").fill(HOSTILE)
    search(page, "green apples", found=1)
    page.get_by_label("Document, or part of its name").fill("onerror")
    search(page, "green apples", found=1)
    name = page.locator(".hit .name").inner_text()
    assert name == HOSTILE.removeprefix("x/").replace("\u202e", r"\u{202e}").replace("\n", r"\u{a}")
    page.get_by_role("button", name="Open").click()
    assert name in page.locator("#viewer-title").inner_text()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Only this document").click()
    page.get_by_role("status").filter(has_text="1 page found").wait_for()
    assert "onerror=" in page.get_by_label("Document, or part of its name").input_value()
    page.get_by_label("Document, or part of its name").fill("")
    search(page, "krill", found=5)
    assert "<script>" in page.locator(".hit", has_text="sea.pdf").inner_text()
    assert page.locator("img:not(.sheet img), .hit script").count() == 0
    search(page, "<img src=x onerror=alert(1)> apples", found=5)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_narrow_screens_show_all_of_it_readably(page, colours):
    page.emulate_media(color_scheme=colours)
    page.set_viewport_size({"width": 320, "height": 640})
    search(page, "red apples", found=5)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.locator(".hit .open").first.click()
    assert page.evaluate("document.getElementById('viewer').scrollWidth") <= 320
    for selector in ("#status", "dt", ".text", ".page", "label span", ".rank", "form > button"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector


CONTRAST = """selector => {
  const all = [...document.querySelectorAll(selector)];
  const element = all.find(one => one.offsetParent) ?? all[0];
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => numbers(colour).slice(0, 3).map(value => value / 255)
    .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = one => {
    const colour = getComputedStyle(one).backgroundColor;
    return numbers(colour)[3] === 0 && one.parentElement ? behind(one.parentElement) : colour;
  };
  const [dark, bright] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
}"""


def test_errors_are_said(page):
    page.route("**/v1/search", lambda route: route.abort())
    page.get_by_role("searchbox").fill("apples")
    page.keyboard.press("Enter")
    page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()
    page.unroute("**/v1/search")
    search(page, "apples", found=5)
    assert page.get_by_role("alert").inner_text() == ""


def test_a_key_is_asked_for_and_kept_for_this_tab_alone(browser, index):
    with serving(Served(index=index), ServeSettings(api_key=KEY)) as url, browser.new_context() as context:
        context.set_default_timeout(WAIT)
        tab = context.new_page()
        tab.goto(f"{url}/#q=apples")
        tab.get_by_label("Key of this server").fill("wrong")
        tab.keyboard.press("Enter")
        tab.get_by_text("This key is not").wait_for()
        tab.get_by_label("Key of this server").fill(KEY)
        tab.keyboard.press("Enter")
        tab.get_by_role("status").filter(has_text="5 pages found").wait_for()
        tab.locator(".hit img[alt='apples.pdf, page 1']").wait_for()
        assert KEY not in tab.content() + tab.url
        tab.reload()
        tab.get_by_role("status").filter(has_text="5 pages found").wait_for()
        assert context.cookies() == []
        other = context.new_page()
        other.goto(url)
        other.get_by_label("Key of this server").wait_for()


def test_the_page_may_load_nothing_from_elsewhere(url):
    import httpx

    folder = Path(__file__).parents[3] / "shared" / "nemotron_rag" / "serve" / "page"
    for path in ("/", "/page/search.js", "/page/regions.js", "/page/server.js", "/page/search.css", "/page/icon.svg"):
        answer = httpx.get(f"{url}{path}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert not {"unsafe-inline", "unsafe-eval", "http:", "*"} & set(policy.replace("'", "").split())
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text.replace("https", "http").replace("XMLHttp", ""), file.name
        assert "innerHTML" not in text, file.name
