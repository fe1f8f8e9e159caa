"""The data card of a folder: what is in it, and what is unknown about it.

A Markdown file with the front matter of a Hugging Face dataset card: https://huggingface.co/docs/hub/datasets-cards
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import yaml

from artdiff.ingest.captions import caption, summary
from artdiff.ingest.index import Index
from artdiff.ingest.picture import Picture
from artdiff.ingest.tables import shown

NO_CLASS = "(no class)"
MOST = 20
"""Maximum number of lines in a list. The rest is only counted; the manifest has them all."""

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**9, "1M<n<10M"))
LICENSES = frozenset(
    {"cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "pddl", "mit"}
    | {"cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "apache-2.0", "unknown"}
)
"""Licences that the front matter may name. Any other becomes `other` with a `license_name`."""


def data_card(index: Index, name: str) -> str:
    """The whole card of a folder called `name`, front matter first."""
    front = yaml.safe_dump(_front_matter(index, name), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{report(index, name)}"


def report(index: Index, name: str) -> str:
    """The card without its front matter: what is in the folder, in Markdown."""
    used, copies, rejected = index.used, index.copies, index.rejected
    sides = Counter(picture.split for picture in used)
    unlearned = sorted({*index.labels} - {*index.classes})
    captions = summary(caption(picture, "auto") for picture in used)  # file names count only if the user says so
    parts = [
        f"# {shown(name)}",
        f"{len(used) + len(copies) + len(rejected):,} files: {len(used):,} pictures ("
        + ", ".join(f"{count:,} for {side}" for side, count in sorted(sides.items()))
        + f"), {len(copies):,} copies of them left out, {len(rejected):,} set aside.",
        "## Classes",
        _classes(index),
        f"No picture of these classes is trained on{_some(unlearned)}" if unlearned else "",
        "## Captions" if captions else "",
        *captions,
        "## Copies and near-duplicates",
        _duplicates(index),
        "## Set aside",
        _counted("reason", (reason.partition(":")[0] for _, reason in rejected)) or "Nothing.",
        "## Licences",
        _counted("licence", (picture.columns.get("license") or "unknown" for picture in used)),
        "## Sources",
        _counted("source", (picture.columns.get("source") or "unknown" for picture in used)),
        "## Not known",
        "Unless stated above: who chose these pictures and why, who made them, and whether a model may be trained "
        "on them. Counts cannot show whether the classes are right: look at the contact sheets.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(index: Index, name: str) -> dict[str, Any]:
    count, classes = len(index.used), index.labels
    licences = sorted({picture.columns.get("license") or "unknown" for picture in index.used})
    named = licences[0] if len(licences) == 1 else "several"
    features: list[dict[str, Any]] = [{"name": "image", "dtype": "image"}]
    if classes:
        names = {str(number): shown(label) for number, label in enumerate(classes)}
        features.append({"name": "label", "dtype": {"class_label": {"names": names}}})
    sides = Counter(picture.split for picture in index.used)
    return {
        "pretty_name": shown(name),
        "license": named.lower() if named.lower() in LICENSES else "other",
        **({} if named.lower() in LICENSES else {"license_name": named}),
        "task_categories": ["unconditional-image-generation", *(["image-classification"] if classes else [])],
        "size_categories": [next(size for limit, size in SIZES if count < limit)],
        "tags": ["art"],
        "dataset_info": {
            "features": features,
            "splits": [{"name": side, "num_examples": sides[side]} for side in sorted(sides)],
        },
    }


def _classes(index: Index) -> str:
    by_class: dict[str | None, list[Picture]] = {}
    for picture in sorted(index.used, key=lambda one: (one.label is None, one.label)):
        by_class.setdefault(picture.label, []).append(picture)
    lines = [
        _class_line(NO_CLASS if label is None else shown(label), pictures, index)
        for label, pictures in by_class.items()
    ]
    if len(lines) > 1:
        lines.append(_class_line("all", index.used, index))
    heading = ("class", "pictures", "share", "median size", "shorter side", "upright", "square", "wide", "grey")
    counts = [len(pictures) for label, pictures in by_class.items() if label is not None]
    if len(counts) < 2:
        return _table(heading, lines)
    balance = f"The largest class has {max(counts) / min(counts):.1f} times the pictures of the smallest."
    return f"{_table(heading, lines)}\n\n{balance}"


def _class_line(name: str, pictures: list[Picture], index: Index) -> tuple[str, ...]:
    sizes = [(picture.facts.width, picture.facts.height) for picture in pictures]
    shapes = Counter(_shape(width / height) for width, height in sizes)
    short = [min(size) for size in sizes]
    return (
        name,
        f"{len(pictures):,}",
        _share(len(pictures), len(index.used)),
        f"{median(width for width, _ in sizes):.0f} x {median(height for _, height in sizes):.0f}",
        f"{min(short):,} to {max(short):,}",
        *(_share(shapes[shape], len(pictures)) for shape in ("upright", "square", "wide")),
        _share(sum(picture.facts.grey for picture in pictures), len(pictures)),
    )


def _duplicates(index: Index) -> str:
    by_path = {picture.path: picture for picture in index.used}
    pairs = [(one, by_path[one.copy_of]) for one in index.copies if one.copy_of is not None]
    across = [f"{one.path} = {other.path}" for one, other in pairs if one.label != other.label]
    alike = [one for one in index.used if one.looks_like is not None]
    groups = {one.looks_like for one in alike}
    looks = [
        f"{one.path} ~ {one.looks_like}" for one in alike if one.label != by_path[one.looks_like or one.path].label
    ]
    lines = [
        f"- {len(index.copies):,} files are copies of a picture and are left out.",
        f"- {len(across):,} of them are in another class than that picture{_some(across)}",
        f"- {len(index.leaks):,} of them are in another split folder than that picture, which is held "
        f"out{_some(index.leaks)}",
        f"- {len(alike):,} pictures are near-duplicates, in {len(groups):,} groups; "
        + ("each group is" if not index.across else f"all but {len(index.across):,} are")
        + " in one split.",
        f"- {len(looks):,} of them look like a picture of another class{_some(looks)}",
    ]
    return "\n".join(lines)


def _some(items: Sequence[str]) -> str:
    """The end of a line: a full stop without items, else a colon and the list of the items."""
    if not items:
        return "."
    more = f"\n  - and {len(items) - MOST:,} more" if len(items) > MOST else ""
    return ":" + "".join(f"\n  - {shown(item)}" for item in items[:MOST]) + more


def _counted(what: str, items: Iterable[str]) -> str:
    """A table that counts the items, the most frequent first; empty without items."""
    counts = Counter(items)
    lines = [(shown(item), f"{count:,}") for item, count in counts.most_common(MOST)]
    if len(counts) > MOST:
        rest = counts.total() - sum(count for _, count in counts.most_common(MOST))
        lines.append((f"{len(counts) - MOST:,} others", f"{rest:,}"))
    return _table((what, "files"), lines) if lines else ""


def _table(heading: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (heading, *lines)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]])


def _shape(ratio: float) -> str:
    return "upright" if ratio < 0.95 else "wide" if ratio > 1.05 else "square"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"
