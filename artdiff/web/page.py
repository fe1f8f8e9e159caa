"""The page: its tabs and its style."""

from typing import Any

import gradio as gr

from artdiff.web.folder import folder
from artdiff.web.look import browse, compare, report
from artdiff.web.paint import Paint
from artdiff.web.shown import said
from artdiff.web.studio import Studio
from artdiff.web.training import Training

CSS = """
.status textarea {font-family: monospace}
footer {display: none !important}
"""

KEPT = 3600
"""Seconds until uploads and the page's copies of pictures are deleted."""

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""Uses the system's fonts: nothing is loaded from the internet."""


def page(studio: Studio, training: Training) -> gr.Blocks:
    """The whole page."""
    with gr.Blocks(title="artdiff", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown("# artdiff\nPaints new pictures. Each file that it writes is marked as generated.")
        with gr.Tab("Paint"):
            paint = Paint(studio)
        with gr.Tab("Compare"):
            compared = compare(studio)
        with gr.Tab("Painted before"):
            browse(studio)
        with gr.Tab("Your folder"):
            folder(training)
        with gr.Tab("Report"):
            reported = report(studio)
        lists = [paint.run, *compared, reported]

        def listed() -> list[Any]:
            found = studio.runs()
            return [gr.update(choices=found, value=found[0] if found else None) for _ in lists]

        opened = blocks.load(listed, None, lists)
        opened.then(said(paint.known), paint.run, paint.told)
    return blocks
