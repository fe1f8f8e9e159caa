"""Three tabs: compare two runs, browse painted pictures, and show a run's report."""

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from artdiff import UserError
from artdiff.cli import typed
from artdiff.web.shown import AT_ONCE, Copies, cancelling, runs, said, said_often, served, visitor
from artdiff.web.studio import Studio, comparable


def compare(studio: Studio) -> list[gr.Dropdown]:
    """Build the tab that paints the same seeds and settings with two runs."""
    gr.Markdown("The same seeds and settings, painted by two runs.")
    with gr.Row():
        both = [runs(studio, f"Run {name}") for name in "AB"]
    with gr.Row():
        label = gr.Textbox("all", label="Label", info="a class by name, all or none")
        n = gr.Slider(1, 16, value=4, step=1, label="Pictures of each label")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    with gr.Row():
        go, cancel = gr.Button("Paint with both", variant="primary"), gr.Button("Cancel")
    status = gr.Textbox(label="Status", interactive=False)
    with gr.Row():
        made = [gr.Gallery(label=name, columns=4, height="auto", buttons=["download", "fullscreen"]) for name in "AB"]

    def paint(given: Mapping[Any, Any], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        names = [given[run] for run in both]
        asked = {"label": given[label] or None, "n": given[n], "seed": given[seed]}
        found: list[Any] = [[] for _ in names]
        copies = Copies()
        for place, name in enumerate(names):
            usual = comparable(studio.painter(name))
            for shown in studio.paint(name, usual | asked, visitor=visitor(request)):
                found[place] = [(copies[made.path], made.title) for made in shown.made]
                yield (f"{'AB'[place]}: {shown.status}", *found)

    go.click(said_often(paint), {*both, label, n, seed}, [status, *made], **AT_ONCE)
    cancel.click(cancelling(studio), queue=False)
    return both


def browse(studio: Studio) -> None:
    """Build the tab of all painted pictures with their settings."""
    gr.Markdown(f"Pictures in `{studio.settings.out}`, the newest first.")
    look = gr.Button("Look again")
    found = gr.Gallery(label="Painted", columns=6, height="auto", buttons=["download", "fullscreen"])
    again = gr.Textbox(label="To paint it again", interactive=False, buttons=["copy"], elem_id="once_more")
    told = gr.JSON(label="Its settings")
    paths = gr.State([])

    def listed() -> tuple[Any, ...]:
        there = studio.painted()
        return [(served(path), path.stem) for path in there], there

    def choose(paths: list[Path], event: gr.SelectData) -> tuple[str, Any]:
        settings, command = studio.about(paths[event.index])
        return command, settings

    look.click(said(listed), None, [found, paths])
    found.select(said(choose), paths, [again, told])


def report(studio: Studio) -> gr.Dropdown:
    """Build the tab with the report of `artdiff.evaluate` on a run."""
    run = runs(studio, "Run")
    look = gr.Button("Show its report")
    shown = gr.HTML()

    def show(name: str) -> str:
        path = studio.report(name)
        if path is None:
            raise UserError(f"this run was not evaluated yet: {typed('artdiff.evaluate', f'ckpt={name}')}")
        inside = html.escape(path.read_text(encoding="utf-8"))
        return f'<iframe sandbox srcdoc="{inside}" title="report" style="width:100%;height:80vh;border:0"></iframe>'

    look.click(said(show), run, shown)
    return run
