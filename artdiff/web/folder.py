"""The tab for the user's own folder: inspect it, and train on it."""

from collections.abc import Callable
from typing import Any

import gradio as gr

import artdiff
from artdiff import UserError
from artdiff.cli import composed
from artdiff.ingest.advice import advice
from artdiff.web.shown import said, served
from artdiff.web.training import EXPERIMENTS, Training

EVERY = 3
"""Seconds between updates of the training's status."""


def folder(training: Training) -> None:
    """Build the tab."""
    gr.Markdown("A folder of pictures on this machine. Subfolders are classes. Nothing in it is changed.")
    path = gr.Textbox(label="Folder", placeholder="/home/me/Pictures")
    experiment = gr.Dropdown(list(EXPERIMENTS), value=EXPERIMENTS[0], label="What to train")
    look = gr.Button("Look into the folder")
    expected, card = gr.Markdown(), gr.Markdown()
    minutes = gr.Number(10, label="Minutes of training", minimum=0)
    with gr.Row():
        start = gr.Button("Start training", variant="primary")
        stop, carry_on = gr.Button("Stop and save"), gr.Button("Resume")
    status = gr.Textbox(label="Training", interactive=False, lines=8, elem_classes="status")
    grid = gr.Image(label="Its newest pictures", interactive=False, height=360, visible=False, buttons=["fullscreen"])

    def inspect(path: str, experiment: str) -> tuple[str, str]:
        if not path:
            raise UserError("give a folder first")
        data = composed("train", [f"experiment={experiment}", "run_dir=unused"])["data"]
        found = artdiff.inspect(path, image_size=data["image_size"], fit=data["fit"])
        return advice(len(found.index.on("train"))), str(found)

    def now() -> tuple[Any, ...]:
        status = training.status()
        grid = served(status.grid) if status.grid is not None else None
        return status.text, gr.update(value=grid, visible=grid is not None)

    def begin(path: str, experiment: str, minutes: float | None) -> tuple[Any, ...]:
        training.start(path, experiment, minutes or 0)
        return now()

    def does(action: Callable[[], None]) -> Callable[[], tuple[Any, ...]]:
        def act() -> tuple[Any, ...]:
            action()
            return now()

        return act

    look.click(said(inspect), [path, experiment], [expected, card])
    start.click(said(begin), [path, experiment, minutes], [status, grid])
    stop.click(said(does(training.stop)), None, [status, grid])
    carry_on.click(said(does(training.carry_on)), None, [status, grid])
    gr.Timer(EVERY).tick(now, None, [status, grid], show_progress="hidden")
