"""The page: its tabs, and what it looks like."""

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

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""With the fonts of the machine: nothing is fetched from elsewhere."""


def page(studio: Studio, training: Training) -> gr.Blocks:
    """The whole page."""
    with gr.Blocks(title="artdiff", analytics_enabled=False) as blocks:
        gr.Markdown("# artdiff\nPaints new pictures. Everything it writes says that a model made it.")
        with gr.Tab("Paint"):
            paint = Paint(studio)
        with gr.Tab("Compare"):
            compare(studio)
        with gr.Tab("Painted before"):
            browse(studio)
        with gr.Tab("Your folder"):
            folder(training)
        with gr.Tab("Report"):
            report(studio)
        blocks.load(said(paint.begin), None, [paint.run, paint.label])
    return blocks
