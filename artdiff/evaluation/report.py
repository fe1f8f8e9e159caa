"""An evaluation as one web page that needs nothing else: no network, no script, readable without knowing the terms."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from artdiff.evaluation.originality import Originality
from artdiff.evaluation.scores import FLOOR, Scored, Scores

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
img { max-width: 100%; height: auto; display: block; }
figure { margin: 1rem 0; }
figcaption, small { font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; border-bottom: 1px solid; white-space: nowrap; }
"""

TERMS = {
    "Fréchet distance": "how far the painted pictures as a whole are from real ones; the smaller, the better",
    "KID": "the same by another formula, which is fair to small sets; the smaller, the better",
    "precision": "the share of painted pictures that look like a real one",
    "recall": "the share of real pictures that have something painted like them",
    "density": "how many real pictures each painted one looks like, against what is expected",
    "coverage": "the share of real pictures with a painted one close by",
    "PSNR": "how exactly pictures are reconstructed, in decibels; the larger, the better",
    "SSIM": "how alike their structure is; 1 is equal",
}


def page(scores: Scores, *, name: str, facts: dict[str, Any]) -> str:
    """The report of a run called `name`; `facts` are what the run says of itself."""
    parts = [
        f"<h1>{_text(name)}: a report</h1>",
        f"<p>{_text(_what(scores, facts))}</p>",
        *_pictures(scores),
        *_scores(scores),
        *_copies(scores.originality, scores.nearest),
        *_list("How this was measured", _flat(scores.protocol)),
        *_list("What the run says of itself", _flat(facts)),
        *_limits(scores),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_text(name)}</title>'
    return f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n<body>\n' + "\n".join(
        [*parts, "</body>\n</html>\n"]
    )


def _what(scores: Scores, facts: dict[str, Any]) -> str:
    data = facts.get("data", {})
    trained = f"It was trained on {data['train']:,} pictures" if "train" in data else "It was trained on pictures"
    steps = f" for {facts['steps']:,} steps" if "steps" in facts else ""
    does = "paints new pictures" if scores.scored else "reconstructs pictures"
    return f"A model that {does}. {trained}{steps}, and is judged here by pictures that it has not seen."


def _pictures(scores: Scores) -> Iterator[str]:
    if scores.sheet is not None:
        yield "<h2>What it paints</h2>"
        rows = f"One row for each class: {', '.join(scores.rows)}. " if scores.rows else ""
        yield _figure(scores.sheet, "Pictures that the model painted", f"{rows}The first ones, not a selection.")


def _scores(scores: Scores) -> Iterator[str]:
    yield "<h2>How good it is</h2>"
    if scores.reconstruction:
        yield "<ul>"
        for name, value in scores.reconstruction.items():
            known = name.upper()
            yield f"<li>{known}: {value:.4g} ({_text(TERMS.get(known, ''))})</li>"
        yield "</ul>"
        return
    yield (
        f"<p>Each line compares a set of pictures with the pictures that were held out. The line “{FLOOR}” is of real "
        f"pictures: a perfect painter would get about the same. Compare only figures of equally many pictures.</p>"
    )
    heading = ("set", "class", "pictures", "seen by", "Fréchet distance", "KID x 1000", "precision", "recall",
               "density", "coverage")  # fmt: skip
    yield '<div class="wide" tabindex="0" role="region" aria-label="Scores"><table><thead><tr>'
    yield "".join(f'<th scope="col">{_text(name)}</th>' for name in heading) + "</tr></thead><tbody>"
    for one in scores.scored:
        yield "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in _cells(one)) + "</tr>"
    yield "</tbody></table></div><dl>"
    for name in ("Fréchet distance", "KID", "precision", "recall", "density", "coverage"):
        yield f"<dt>{_text(name)}</dt><dd>{_text(TERMS[name])}</dd>"
    yield "</dl>"


def _cells(one: Scored) -> Sequence[str]:
    *before, value, interval, kernel = one.cells()[:7]
    return (*before, f"{value} {interval}".rstrip(), kernel, *one.cells()[7:])


def _copies(found: Sequence[Originality], nearest: Image.Image | None) -> Iterator[str]:
    if not found:
        return
    yield "<h2>Does it copy?</h2><ul>"
    for one in found:
        share, theirs = one.painted, one.held_out
        more = "More than chance would give." if one.is_above else "No more than chance would give."
        yield (
            f"<li>By {_text(one.space)}: {share.below:,} of {share.total:,} painted pictures lie suspiciously near to "
            f"one training picture ({share.low:.1%} to {share.high:.1%}); of pictures that cannot be copies, "
            f"{theirs.below:,} of {theirs.total:,} do. {more}</li>"
        )
    yield "</ul><p>This can show that copies are more frequent than chance. It cannot show that there are none.</p>"
    if nearest is not None:
        yield _figure(nearest, "Painted pictures above the training pictures nearest to them",
                      "The nearest pairs: painted above, trained on below.")  # fmt: skip


def _list(title: str, facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    if facts:
        rows = "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in facts)
        label = html.escape(title, quote=True)
        yield f"<h2>{_text(title)}</h2>"
        yield f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>{rows}</table></div>'


def _limits(scores: Scores) -> Iterator[str]:
    yield "<h2>What this does not say</h2><ul>"
    if any(one.features == "random_vgg16" for one in scores.scored):
        yield "<li>“random_vgg16” sees texture and colour; it does not know objects.</li>"
    yield "<li>Figures of one run and one set of seeds: another training gives others.</li>"
    yield "<li>Whether the pictures used may be used is not decided by any figure here.</li></ul>"


def _figure(picture: Image.Image, alt: str, caption: str) -> str:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90)
    content = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="{html.escape(alt, quote=True)}" src="data:image/jpeg;base64,{content}" '
    size = f'width="{picture.width}" height="{picture.height}">'
    return f"<figure>{image}{size}<figcaption>{_text(caption)}</figcaption></figure>"


PRIVATE = ("root", "carried_on_from")
"""Facts that say where things lie on this machine."""


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in facts.items():
        if name in PRIVATE:
            continue
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name} ")
        else:
            found.append((f"{prefix}{name}".replace("_", " "), str(value)))
    return found


def _text(value: str) -> str:
    return html.escape(value, quote=False)
