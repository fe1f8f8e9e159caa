"""The model card of an exported model: what it is, what it was trained on, its scores, and its limits.

A Markdown file with the front matter of a Hugging Face model card: https://huggingface.co/docs/hub/model-cards
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from artdiff.evaluation.results import Scores
from artdiff.ingest.tables import shown
from artdiff.painter import Painter
from artdiff.settings.sharing import ExportSettings

UNKNOWN = "unknown"

WORDS = 20
"""How many words of the captions the card names."""


def text(
    settings: ExportSettings,
    *,
    name: str,
    painter: Painter,
    facts: Mapping[str, Any],
    scores: Scores,
    sheet: str | None,
) -> str:
    """The model card as Markdown.

    Args:
        settings: licence and intended use.
        name: name of the model.
        painter: the model.
        facts: metadata of its run; may be empty.
        scores: results of `artdiff.evaluate`; may be empty.
        sheet: the file with samples, if there is one.
    """
    front = {"license": settings.license, "library_name": "artdiff", "tags": ["art", "diffusion", "generated"]}
    front |= {"pipeline_tag": "unconditional-image-generation"} if painter.paints else {}
    does = "paints new pictures" if painter.paints else "reconstructs pictures"
    parts = [
        f"# {shown(name)}",
        f"A model that {does} of {painter.image_size} px, made with artdiff. Each picture that it writes is marked "
        f"as generated.",
        f"![Samples, not selected: a row for each label]({sheet})" if sheet is not None else "",
        "## Use",
        "```python\nimport artdiff\n\nfor painting in artdiff.load('DIR').paint(n=4):\n"
        "    painting.save(f'{painting.name}.png')\n```"
        if painter.paints
        else "```python\nimport artdiff\n\nartdiff.load('DIR').reconstruct(picture)\n```",
        *_way(painter),
        "## Intended use",
        settings.intended_use or f"{UNKNOWN.capitalize()}: the author of this model has not stated it.",
        "## Data",
        *_data(painter, facts),
        "## Scores",
        *_scores(scores),
        "## Originality",
        _list(scores.originality),
        "## What it prefers",
        _list(sentence for one in scores.representation for sentence in one.sentences()),
        "## Cost",
        *_cost(facts),
        "## Limits",
        "Scores compare sets of pictures and say nothing about a single one. A low share of copies does not show that "
        "there are none. This card cannot tell whether a model may be trained on these pictures, and under which "
        "licence it may be shared.",
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _way(painter: Painter) -> Iterator[str]:
    made_for = painter.made_for
    stored = {name: value for name, value in painter.defaults.items() if made_for.get(name) != value}
    if not getattr(painter.task, "refiners", ()):
        stored = {name: value for name, value in stored.items() if not name.startswith("refine_")}
    best = "the best settings of those that were evaluated"
    for settings, why in ((made_for, "it was trained for that"), (stored, best)):
        if settings:
            own = ", ".join(f"`{name}={value}`" for name, value in settings.items())
            yield f"By default it paints with {own}: {why}."


def _data(painter: Painter, facts: Mapping[str, Any]) -> Iterator[str]:
    data = facts.get("data", {})
    if "train" in data:
        yield f"Trained on {data['train']:,} pictures; {data.get('validation', 0):,} were held out."
    if painter.classes:
        yield f"Labels: {', '.join(shown(label) for label in painter.classes)}."
    if painter.vocabulary:
        often = ", ".join(shown(word) for word in painter.vocabulary[:WORDS])
        yield f"Captions with {len(painter.vocabulary):,} different words; the most frequent are: {often}."
        yield "`config.json` lists all of these words."
    yield f"SHA-256 of the list of these pictures (the manifest in their data card): {painter.data or UNKNOWN}."


def _scores(scores: Scores) -> Iterator[str]:
    found = [one for one in scores.scored if one.label is None]
    if scores.reconstruction:
        yield ", ".join(f"{name.upper()} {value:.4g}" for name, value in scores.reconstruction.items()) + "."
    elif found:
        lines = ["| set | pictures | features | Fréchet distance | KID x 1000 | precision | recall |", "|" + "---|" * 7]
        for one in found:
            cells = (one.set, f"{one.count:,}", one.features, f"{one.frechet.value:.4g}", f"{1000 * one.kernel:.3g}",
                     f"{one.manifold.precision:.2f}", f"{one.manifold.recall:.2f}")  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        yield "\n".join(lines)
        yield "A smaller Fréchet distance is better; a perfect painter has about that of training pictures."
    else:
        yield "Not evaluated."


def _list(found: Iterable[object]) -> str:
    return "\n".join(f"- {one}" for one in found) or "Not looked at."


def _cost(facts: Mapping[str, Any]) -> Iterator[str]:
    told = [f"{name}: {facts[name]}" for name in ("device", "precision", "parameters", "steps") if name in facts]
    yield f"{'; '.join(told)}." if told else f"{UNKNOWN.capitalize()}."
