"""The report is one safe, self-contained file, whatever documents hold. It knows nothing of how hits are found."""

import base64
import doctest
import functools
import hashlib
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.heatmap import compute_heatmap
from nemotron_rag.report import html_page as html_report
from nemotron_rag.report.html_page import Answer, render_report, write_report
from nemotron_rag.testing import FakeMultiVectorEmbedder
from nemotron_rag.types import Hit, Page

VOID = {"meta", "img", "br", "link"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "nav", "section", "h1", "h2", "h3", "p"),
    *("ol", "li", "a", "div", "figure", "img", "b", "span", "dl", "dt", "dd", "mark"),
}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed by its own kind."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.words, self._open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


def parse(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader._open
    return reader


def hit(text="words", *, image=None, source="a.pdf", number=1, score=0.5, retrieval=0.5, rank=1):
    page = Page(text, image, id=f"{source}/{number}", source=source, number=number)
    return Hit(page, score, retrieval, rank)


def make_image(width=60, height=80, colour="red", mode="RGB"):
    return Image.new(mode, (width, height), colour)


def test_shows_everything_about_a_hit():
    html = render_report(
        [
            Answer(
                "How are apples stored?",
                [hit("Apples are stored cold.", score=4.25, retrieval=0.71, number=12)],
                "0.3 s",
            )
        ],
        title="Fruit",
        note="Two models.",
    )
    text = parse(html).text
    for shown in ("Fruit", "Two models.", "How are apples stored?", "0.3 s", "a.pdf", "page 12", "4.250", "0.710"):
        assert shown in text
    assert "<mark>Apples</mark> are <mark>stored</mark> cold." in html


def test_a_fused_score_is_not_called_the_rerankers():
    text = parse(render_report([Answer("q", [hit(score=0.5, retrieval=0.25)], fused=True)])).text
    assert "both orders" in text
    assert "reranker" not in text


def test_one_score_without_a_second_stage():
    assert "reranker" not in parse(render_report([Answer("q", [hit(score=0.5, retrieval=0.5)])])).text
    without_retrieval = parse(render_report([Answer("q", [hit(score=0.5, retrieval=float("nan"))])])).text
    assert "reranker" in without_retrieval
    assert "nan" not in without_retrieval


HOSTILE = (
    "</p></style><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>\"'&amp;[red]\x1b[31m\udcff\x00"
)


def test_text_of_documents_never_becomes_markup():
    answers = [Answer(HOSTILE, [hit(HOSTILE, image=make_image(), source=HOSTILE)], HOSTILE)] * 2
    html = render_report(answers, title=HOSTILE, note=HOSTILE)
    reader = parse(html)
    assert set(reader.tags) <= ALLOWED
    assert not [name for _, name, _ in reader.attributes if name.startswith("on") or name == "style"]
    assert "alert(1)" in reader.text
    assert "\x1b" not in html
    assert "\x00" not in html


def test_refers_to_nothing_outside_itself():
    reader = parse(render_report([Answer("q", [hit(image=make_image())]), Answer("r", [hit(image=make_image())])]))
    targets = [value for _, name, value in reader.attributes if name in {"src", "href", "action", "srcset"}]
    assert targets
    assert all(value.startswith(("data:image/webp;base64,", "#")) for value in targets)
    identities = [value for _, name, value in reader.attributes if name == "id"]
    assert len(identities) == len(set(identities))
    assert {value[1:] for value in targets if value.startswith("#")} <= set(identities)


def test_policy_allows_only_the_images_and_its_own_style():
    html = render_report([Answer("q", [hit(image=make_image())])])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "url(" not in style
    assert "@import" not in style


def embedded(html):
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'src="data:[^,]*,([^"]*)"', html)]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "CMYK"])
def test_images_of_every_mode_are_shown_and_downsized(mode):
    original = make_image(3000, 1500, 0, mode)
    (shown,) = embedded(render_report([Answer("q", [hit(image=original)])]))
    assert shown.format == "WEBP"
    assert shown.size == (1200, 600)
    assert original.size == (3000, 1500)


def test_small_images_keep_their_size_and_colour():
    (shown,) = embedded(render_report([Answer("q", [hit(image=make_image(60, 80, "red"))])]))
    assert shown.size == (60, 80)
    red, green, blue = shown.convert("RGB").getpixel((30, 40))
    assert red > 240
    assert max(green, blue) < 20


def test_pages_without_a_readable_image_or_text_say_so():
    html = render_report([Answer("q", [hit("", image=b"no image at all"), hit("t", image=None)]), Answer("r", [])])
    text = parse(html).text
    assert "expected an image" in text
    assert "no image" in text
    assert "no text, only its image" in text
    assert "No page was found." in text


heatmap = functools.partial(compute_heatmap, FakeMultiVectorEmbedder())


def test_hits_of_late_interaction_come_with_their_heatmap():
    page = make_image(60, 80, "red")
    html = render_report(
        [Answer("red apples", [hit("red apples", image=page)], "", heatmap), Answer("red", [hit(image=page)])]
    )
    colours = [shown.convert("RGB").getpixel((30, 40)) for shown in embedded(html)]
    assert len(colours) == 3  # page and heatmap, and the page of an answer without
    assert max(colours[1]) - min(colours[1]) < 20  # in shades of grey: nothing stands out on a plain page
    assert "where the words of the query match" in html
    identities = [value for _, name, value in parse(html).attributes if name == "id"]
    assert len(identities) == len(set(identities))


def test_a_heatmap_that_cannot_be_made_leaves_the_page():
    html = render_report(
        [Answer("?", [hit(image=make_image())], "", heatmap), Answer("red", [hit(image=None)], "", heatmap)]
    )
    assert len(embedded(html)) == 1
    assert "needs a query with words" in parse(html).text
    assert "no image" in parse(html).text


@pytest.mark.slow
def test_fifty_hits_stay_a_page_that_opens():
    noise = Image.effect_noise((320, 400), 40).convert("RGB")
    html = render_report([Answer("q", [hit(image=noise, number=n, rank=n) for n in range(1, 51)])])
    assert len(embedded(html)) == 50
    assert len(html) < 10e6


def test_writes_utf8_and_replaces(tmp_path):
    target = tmp_path / "hits.html"
    target.write_text("old")
    assert write_report(target, [Answer("Kläranlage كيف", [])]) == target
    assert "Kläranlage كيف" in target.read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot write the report to .*give another file") as caught:
        write_report(tmp_path / "missing" / "hits.html", [])
    assert "\n" not in str(caught.value)


def test_examples_run():
    assert doctest.testmod(html_report).failed == 0
