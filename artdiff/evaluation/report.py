"""The report of an evaluation: one web page without scripts or external files, which explains its terms."""

import base64
import html
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from markdown import Markdown
from PIL import Image

from artdiff.evaluation import charts
from artdiff.evaluation.charts import escaped
from artdiff.evaluation.originality import Originality
from artdiff.evaluation.representation import Asked, Aspect, Line
from artdiff.evaluation.results import FLOOR, Choice, Scored, Scores

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
img { max-width: 100%; height: auto; display: block; }
figure { margin: 1rem 0; }
figcaption, small { font-size: .9rem; }
svg { width: 100%; max-width: 36rem; height: auto; display: block; }
svg .label { font: 12px system-ui, sans-serif; fill: currentColor; }
svg .first, .key .first { fill: #6b7280; background: #6b7280; }
svg .second, .key .second { fill: #c2410c; background: #c2410c; }
svg .line { stroke: currentColor; stroke-width: 2; fill: none; }
.key i { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
.wide { overflow-x: auto; }
h1, p, li, dd, figcaption { overflow-wrap: anywhere; }
table { border-collapse: collapse; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; border-bottom: 1px solid; white-space: nowrap; }
"""

TERMS = {
    "Fréchet distance": "how far the painted pictures as a whole are from real ones; the smaller, the better",
    "KID": "the same by another formula, which is fair to small sets; the smaller, the better",
    "precision": "the share of painted pictures that look like a real one",
    "recall": "the share of real pictures that look like a painted one",
    "density": "how many real pictures each painted one looks like, relative to the expected number",
    "coverage": "the share of real pictures with a painted one close by",
    "PSNR": "how exactly pictures are reconstructed, in decibels; the larger, the better",
    "SSIM": "how similar their structure is; 1 is equal",
    "LPIPS": "how far they are apart in the features of a network trained on photographs; 0 is equal",
}


KEY = '<p class="key"><i class="first"></i>training <i class="second"></i>painted (line: 95 % interval)</p>'
"""What the colours of bars mean."""


def page(scores: Scores, *, name: str, facts: dict[str, Any], card: str | None) -> str:
    """The report of a run called `name` as HTML; `facts` is the run's metadata, `card` its data card in Markdown."""
    parts = [
        f"<h1>{escaped(name)}: a report</h1>",
        f"<p>{escaped(_what(scores, facts))}</p>",
        *_pictures(scores),
        *_prompted(scores),
        *_scores(scores),
        *_choices(scores.choices),
        *_copies(scores.originality, scores.nearest),
        *_asked(scores.asked),
        *_representation(scores),
        *_card(card),
        *_list("How this was measured", _flat(scores.protocol)),
        *_list("Metadata of the run", _flat(facts)),
        *_limits(scores),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escaped(name)}</title>'
    return f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n<body>\n' + "\n".join(
        [*parts, "</body>\n</html>\n"]
    )


def _what(scores: Scores, facts: dict[str, Any]) -> str:
    data = facts.get("data", {})
    trained = f"It was trained on {data['train']:,} pictures" if "train" in data else "It was trained on pictures"
    steps = f" for {facts['steps']:,} steps" if "steps" in facts else ""
    does = "paints new pictures" if scores.scored else "reconstructs pictures"
    return f"A model that {does}. {trained}{steps}, and is evaluated here on pictures that it has not seen."


def _pictures(scores: Scores) -> Iterator[str]:
    if scores.sheet is not None:
        yield "<h2>What it paints</h2>"
        rows = f"One row for each class: {', '.join(scores.rows)}. " if scores.rows else ""
        yield _figure(scores.sheet, "Pictures that the model painted", f"{rows}The first ones, not a selection.")


def _prompted(scores: Scores) -> Iterator[str]:
    if scores.prompted is not None:
        yield "<h2>What it paints for prompts</h2>"
        yield "<ol>" + "".join(f"<li>{escaped(prompt)}</li>" for prompt in scores.prompts) + "</ol>"
        yield _figure(scores.prompted, "Pictures that the model painted for captions of held-out pictures",
                      "A row for each of these captions: the held-out picture that has it, then what the model painted "
                      "for it without having seen that picture.")  # fmt: skip


def _scores(scores: Scores) -> Iterator[str]:
    yield "<h2>How good it is</h2>"
    if scores.reconstruction:
        yield "<ul>"
        for name, value in scores.reconstruction.items():
            known = name.upper()
            yield f"<li>{known}: {value:.4g} ({escaped(TERMS.get(known, ''))})</li>"
        yield "</ul>"
        return
    yield (
        f"<p>Each row compares a set of pictures with the held-out pictures. The row “{FLOOR}” is for real pictures: "
        f"a perfect painter would get about the same. Compare only rows with equal numbers of pictures.</p>"
    )
    heading = ("set", "class", "pictures", "features", "Fréchet distance", "KID x 1000", "precision", "recall",
               "density", "coverage")  # fmt: skip
    yield _table("Scores", heading, map(_cells, scores.scored))
    yield "<dl>"
    for name in ("Fréchet distance", "KID", "precision", "recall", "density", "coverage"):
        yield f"<dt>{escaped(name)}</dt><dd>{escaped(TERMS[name])}</dd>"
    yield "</dl>"
    yield from _distances(scores.scored)


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
            f"<li>Compared by {escaped(one.space)}: {share.below:,} of {share.total:,} painted pictures lie "
            f"suspiciously near to one training picture ({share.low:.1%} to {share.high:.1%}). So do {theirs.below:,} "
            f"of {theirs.total:,} held-out pictures, which cannot be copies. {more}</li>"
        )
    yield "</ul><p>This can show that copies are more frequent than by chance, but not that there are none.</p>"
    if nearest is not None:
        yield _figure(nearest, "Painted pictures above the training pictures nearest to them",
                      "The nearest pairs: the painted picture above, the training picture below.")  # fmt: skip


def _choices(choices: Sequence[Choice]) -> Iterator[str]:
    if not choices:
        return
    yield "<h2>Which settings paint best?</h2>"
    yield (
        f"<p>{len(choices)} candidates were compared by their Fréchet distance. Everything else on this page is about "
        f"the best one, “{escaped(choices[0].name)}”. Where intervals overlap, the order may be chance. The best of "
        "several scores a little better here than on other pictures.</p>"
    )
    heading = ("candidate", "evaluations of the network, at most", "Fréchet distance")
    yield _table("Candidates", heading, [(one.name, f"{one.calls:,}", str(one.frechet)) for one in choices])
    over = {"network evaluations for a picture, at most": [float(one.calls) for one in choices],
            "guidance": [float(one.settings["guidance"]) for one in choices]}  # fmt: skip
    for name, values in over.items():
        if len(set(values)) > 1:
            shown = [charts.Point(value, one.frechet, one.name) for value, one in zip(values, choices, strict=True)]
            alt = f"Fréchet distance against {name}; the table above has the values"
            yield f"<figure>{charts.points(shown, x=name, y='Fréchet distance', alt=alt)}</figure>"


def _representation(scores: Scores) -> Iterator[str]:
    if not scores.representation:
        return
    yield "<h2>What does it paint without a label?</h2>"
    yield "<p>Pictures painted without a label, compared with the training pictures.</p>"
    yield KEY
    for one in scores.representation:
        yield f"<h3>{escaped(one.name.capitalize())}</h3>"
        yield f"<figure>{charts.bars([_bar(line, one) for line in one.lines], alt=_alt(one))}</figure>"
        yield _sentences(one.sentences())
        if one.accuracy is not None:
            yield (
                f"<p><small>Found by a classifier that is right on {one.accuracy:.0%} of the training pictures that it "
                "was not fitted to. Both bars show its answers.</small></p>"
            )


def _asked(found: Sequence[Asked]) -> Iterator[str]:
    if not found:
        return
    yield "<h2>Does it paint what it is asked for?</h2>"
    yield KEY
    lines = [charts.Bar(one.name, one.trained, one.painted, (f"{one.trained:.0%}", f"{one.painted.value:.0%}"))
             for one in found]  # fmt: skip
    sentences = [str(one) for one in found]
    yield f"<figure>{charts.bars(lines, alt='; '.join(sentences), largest=1)}"
    yield "<figcaption>The share that a classifier recognises as the class.</figcaption></figure>"
    yield _sentences(sentences)


def _sentences(found: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escaped(sentence)}.</li>" for sentence in found) + "</ul>"


def _bar(line: Line, aspect: Aspect) -> charts.Bar:
    return charts.Bar(
        line.name, line.real, line.painted, (aspect.written(line.real), aspect.written(line.painted.value))
    )


def _alt(aspect: Aspect) -> str:
    return f"{aspect.name}: {'; '.join(aspect.sentences())}"


def _distances(scored: Sequence[Scored]) -> Iterator[str]:
    """The Fréchet distance of each class, if there are several."""
    first = scored[0].features
    ours = {one.label: one for one in scored if one.label and one.features == first and one.set != FLOOR}
    theirs = {one.label: one for one in scored if one.label and one.features == first and one.set == FLOOR}
    lines = [
        charts.Bar(label, theirs[label].frechet.value, one.frechet, (f"{theirs[label].frechet.value:.3g}",
                   f"{one.frechet.value:.3g}"))
        for label, one in ours.items() if label in theirs
    ]  # fmt: skip
    if len(lines) > 1:
        yield "<h3>Fréchet distance of each class</h3>"
        told = "; ".join(f"{one.name} {one.written[1]}, real pictures {one.written[0]}" for one in lines)
        yield f"<figure>{charts.bars(lines, alt=f'Fréchet distance of each class: {told}')}"
        yield "<figcaption>Shorter bars are better; the grey ones are of real pictures.</figcaption></figure>"


def _card(card: str | None) -> Iterator[str]:
    """The data card as HTML, its headings one level lower."""
    if card is None:
        return
    reader = Markdown(extensions=["tables"], tab_length=2)
    reader.treeprocessors.deregister("inline")  # names of files and classes are text
    reader.parser.blockprocessors.deregister("reference")
    content = reader.convert(html.escape(card, quote=False))
    content = re.sub(r"(</?h)([1-4])>", lambda found: f"{found[1]}{int(found[2]) + 1}>", content)
    content = re.sub(r"<h2>.*?</h2>", "<h2>What it was trained on: the data card</h2>", content, count=1)
    yield re.sub(r"<table>.*?</table>", lambda found: _wide("Data card", found[0]), content, flags=re.DOTALL)


def _table(label: str, heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in heading)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return _wide(label, f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _wide(label: str, table: str) -> str:
    """Wrap a table so that it scrolls sideways, also by keyboard."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(label, quote=True)}">{table}</div>'


def _list(title: str, facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    if facts:
        rows = "".join(
            f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>' for name, value in facts
        )
        yield f"<h2>{escaped(title)}</h2>"
        yield _wide(title, f"<table>{rows}</table>")


def _limits(scores: Scores) -> Iterator[str]:
    yield "<h2>What this does not say</h2><ul>"
    if any(one.features == "random_vgg16" for one in scores.scored):
        yield "<li>“random_vgg16” sees texture and colour; it does not know objects.</li>"
    yield "<li>The scores are of one run and one set of seeds: another training gives others.</li>"
    yield "<li>No score here says whether you may use the training pictures.</li></ul>"


def _figure(picture: Image.Image, alt: str, caption: str) -> str:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90)
    content = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="{html.escape(alt, quote=True)}" src="data:image/jpeg;base64,{content}" '
    size = f'width="{picture.width}" height="{picture.height}">'
    return f"<figure>{image}{size}<figcaption>{escaped(caption)}</figcaption></figure>"


PRIVATE = ("root", "carried_on_from")
"""Metadata with paths of this machine, which the report leaves out."""


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
