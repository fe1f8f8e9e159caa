"""A report is looked at in Chromium, as people see it: on a wide screen and on a phone, in light and in dark."""

import itertools

import pytest
import torch
from conftest import in_a_browser, picture
from PIL import Image

from artdiff import images
from artdiff.evaluation import report
from artdiff.evaluation.distances import Interval, Manifold
from artdiff.evaluation.originality import Originality, Share
from artdiff.evaluation.representation import Asked, Aspect, Line
from artdiff.evaluation.results import FLOOR, Choice, Scored, Scores

pytestmark = in_a_browser

LONG = "Ukiyo-e_woodblock_prints_of_the_late_Edo_period_without_any_space_in_the_name"
HOSTILE = "<script>document.body.remove()</script>[x](javascript:alert(1))"
WIDE = "江戸時代後期の浮世絵と版画と肉筆画と風景画と美人画と役者絵と名所絵"
CLASSES = ("drawings", LONG, HOSTILE, WIDE)


def scores():
    def scored(name, label, value):
        manifold = Manifold(0.9, 0.8, 1.1, 0.7)
        return Scored(
            name, label, "random_vgg16", 100, 90, Interval(value, value - 10, value + 10), 0.1, 0.02, manifold
        )

    sheet = images.Sheet(len(CLASSES))
    for row in range(len(CLASSES)):
        sheet.begin(None)
        for column in range(12):
            sheet.add(picture(12 * row + column, (64, 64)))
    copies = Originality("pixels", 0.4, Share.of(1, 100), Share.of(1, 90), 0.5, Share.of(0, 100), Share.of(0, 90), 0.3,
                         [1.0], [0])  # fmt: skip
    lines = [Line(name, 0.3, 0.3, Interval(0.2, 0.1, 0.3), 0.01) for name in CLASSES]
    ways = [
        Choice(f"guidance {guidance}, {steps} steps", "best.ckpt", "0" * 64, "averaged",
               {"guidance": guidance, "steps": steps}, 2 * steps, Interval(200 + steps + guidance, 150, 280))
        for guidance in (1.0, 2.0) for steps in (10, 20, 30)
    ]  # fmt: skip
    return Scores(
        scored=[scored(name, label, 200) for label in (None, *CLASSES) for name in ("averaged weights", FLOOR)],
        protocol={"artdiff": "0", "checkpoint": {"sha256": "0" * 64}},
        choices=ways,
        originality=[copies],
        representation=[
            Aspect("class", lines, 0.85),
            Aspect("looks", [Line("brightness", 0.5, None, Interval(0.4, 0.3, 0.5), 0.2)], are_shares=False),
        ],
        asked=[Asked(name, Interval(0.9, 0.8, 1.0), 0.85, "drawings") for name in CLASSES],
        sheet=sheet.picture(),
        rows=CLASSES,
        prompted=sheet.picture(),
        prompts=CLASSES,
        nearest=images.sheet([(picture(one), picture(one + 1)) for one in range(16)]),
    )


CARD = f"""# art

## Classes

| class | pictures |
|-------|----------|
| {LONG} | 12 |
| {HOSTILE} | 3 |

- A line{" that is rather long" * 20}
  - __init__ and a*b*c and `code` &lt;
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report.page(scores(), name=LONG, facts={"steps": 100, "data": {"train": 9}}, card=CARD))
    return path


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (360, "light")], ids=str)
def page(browser, file, request):
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, asked = context.new_page(), []
    page.on("request", lambda one: asked.append(one.url))
    page.goto(file.as_uri())
    yield page
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []  # it needs no network
    context.close()


@pytest.mark.slow
def test_every_picture_chart_and_table_is_there(page):
    assert page.evaluate("[...document.images].map(one => one.complete && one.naturalWidth > 0)") == [True, True, True]
    assert page.locator("table").count() == 5  # scores, ways, data card, protocol, facts
    assert (
        page.locator("svg").count() == 6
    )  # two of the ways, what was asked for, two aspects, the distances of classes
    for place in page.locator("img, svg, table").all():
        assert place.bounding_box()["height"] > 20


def test_nothing_overflows(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    wide = """[...document.querySelectorAll('h1, h2, h3, p, li, dd, dt, figure, figcaption')]
        .filter(one => !one.closest('.wide') && one.scrollWidth > one.clientWidth + 1).map(one => one.outerHTML)"""
    assert page.evaluate(wide) == []
    outside = """[...document.querySelectorAll('svg text')].filter(one => {
        const inner = one.getBBox(), outer = one.ownerSVGElement.viewBox.baseVal
        return inner.x < 0 || inner.x + inner.width > outer.width || inner.y + inner.height > outer.height
        }).map(one => one.textContent)"""
    assert page.evaluate(outside) == []


def test_names_are_text(page):
    assert page.locator("script").count() == 0
    assert page.locator("a").count() == 0
    assert page.get_by_text("javascript:alert(1)").count() > 0
    assert page.locator("li li").all_inner_texts() == ["__init__ and a*b*c and `code` &lt;"]


def test_it_can_be_read_without_seeing_it(page):
    levels = [int(one.evaluate("one => one.tagName[1]")) for one in page.locator("h1, h2, h3, h4").all()]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.locator("img:not([alt]), img[alt=''], svg:not([aria-label])").count() == 0
    assert page.locator("html[lang=en]").count() == 1
    assert page.evaluate("[...document.querySelectorAll('.wide')].every(one => one.tabIndex === 0 && one.ariaLabel)")


def test_colours_can_be_told_apart(page):
    """Bars against the page: WCAG asks 3:1 for graphics."""
    found = """['first', 'second'].map(name => getComputedStyle(document.querySelector(`svg .${name}`)).fill)"""
    paper = page.screenshot(clip={"x": 0, "y": 0, "width": 2, "height": 2})
    background = _colour_of(paper)
    for fill in page.evaluate(found):
        colour = tuple(int(part) for part in fill.removeprefix("rgb(").removesuffix(")").split(","))
        assert _contrast(colour, background) >= 3


def _colour_of(png):
    import io

    return Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0))


def _contrast(one, other):
    """The contrast ratio of two sRGB colours (WCAG 2.2)."""
    parts = torch.tensor([one, other]) / 255
    linear = torch.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    dark, light = sorted((linear @ torch.tensor([0.2126, 0.7152, 0.0722])).tolist())
    return (light + 0.05) / (dark + 0.05)
