"""The tab that paints."""

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from artdiff import UserError
from artdiff.settings.base import defaults
from artdiff.web.shown import AT_ONCE, Copies, cancelling, runs, said, said_often, visitor
from artdiff.web.studio import Made, Shown, Studio

MOST = 64
"""The most pictures of each label in one request."""

VARIED = 8
"""How many variations of a picture are painted."""

UNLABELLED = "(no label)"


class Paint:
    """Choose a run and settings, paint, watch pictures emerge, and download them."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                self._ask()
            with gr.Column(scale=2, min_width=320):
                self._show()
        self._wire()

    def _ask(self) -> None:
        usual = defaults("generate")
        self.run = runs(self.studio, "Run")
        self.label = gr.Dropdown([], label="Label", multiselect=True, info="several: pictures of each; empty: of all")
        self.prompt = gr.Textbox(
            label="Prompt", visible=False, info="words from the captions that the model was trained on"
        )
        self.negative = gr.Textbox(label="Negative prompt", visible=False, info="words to avoid; needs guidance over 1")
        self.n = gr.Slider(1, MOST, value=8, step=1, label="Pictures of each label")
        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="the same seed paints the same picture")
        with gr.Row():
            self.go, self.cancel = gr.Button("Paint", variant="primary"), gr.Button("Cancel")
        with gr.Accordion("Start from a picture of yours, the muse", open=False):
            self.muse = gr.File(label="Muse", file_types=["image"], type="filepath", height=120)
            self.seen_muse = gr.Image(label="The muse", visible=False, interactive=False, height=180, buttons=[],
                                      elem_id="muse")  # fmt: skip
            self.strength = gr.Slider(
                0, 1, value=usual["strength"], step=0.05, label="Strength (0: the muse, 1: noise)"
            )
        with gr.Accordion("More settings", open=False):
            self.steps = gr.Slider(1, 100, value=usual["steps"], step=1, label="Steps")
            self.guidance = gr.Slider(
                0, 6, value=usual["guidance"], step=0.1, label="Guidance", info="towards label and prompt; 1 is off"
            )
            self.size = gr.Textbox("train", label="Size", info="train, own (the muse's own) or WIDTHxHEIGHT")
            self.to_seed = gr.Number(
                None,
                label="Interpolate to seed",
                precision=0,
                minimum=0,
                info="and between the labels, if there are two",
            )

    def _show(self) -> None:
        self.status = gr.Textbox(label="Status", interactive=False)
        self.emerging = gr.Gallery(label="Emerging", columns=4, height="auto", visible=False, buttons=[])
        self.made = gr.Gallery(label="Painted", columns=4, height="auto", buttons=["download", "fullscreen"])
        self.again = gr.Textbox(label="To paint the chosen picture again", interactive=False, buttons=["copy"],
                                elem_id="again")  # fmt: skip
        self.vary = gr.Button("Vary the chosen picture: the next seeds")
        self.listed, self.chosen = gr.State([]), gr.State(None)

    def _wire(self) -> None:
        asked: set[Any] = {self.run, self.label, self.n, self.seed, self.muse, self.strength}
        asked |= {self.steps, self.guidance, self.size, self.to_seed, self.prompt, self.negative}
        shown = [self.status, self.emerging, self.made, self.listed]
        self.run.change(said(self.known), self.run, self.told)
        self.muse.change(said(self.see), self.muse, self.seen_muse)
        self.go.click(said_often(self.paint), asked, shown, api_name="paint", **AT_ONCE)
        self.made.select(said(self.choose), self.listed, [self.again, self.chosen])
        varied = self.vary.click(
            said(self.varied),
            [self.run, self.chosen],
            [self.label, self.seed, self.n, self.to_seed, self.prompt, self.negative],
        )
        varied.success(said_often(self.paint), asked, shown, **AT_ONCE)
        self.cancel.click(cancelling(self.studio), queue=False)

    @property
    def told(self) -> list[Any]:
        """The components that depend on the run, in the order of the values of `known`."""
        return [self.label, self.steps, self.guidance, self.prompt, self.negative]

    def known(self, run: str | None) -> tuple[Any, ...]:
        """Updates for a run: its labels, its default steps and guidance, and whether it takes prompts."""
        painter = self.studio.painter(run) if run else None
        classes = painter.classes if painter is not None else []
        way = defaults("generate") | (painter.defaults if painter is not None else {})
        words = gr.update(visible=painter is not None and bool(painter.vocabulary), value="")
        labels = gr.update(choices=[*classes, UNLABELLED] if classes else [], value=[])
        return labels, way["steps"], way["guidance"], words, words

    def see(self, path: str | None) -> Any:
        """A preview of the muse."""
        found = self.studio.muse(path)
        return gr.update(value=found, visible=found is not None)

    def paint(self, given: Mapping[Any, Any], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Paint with the values on the page, and yield updates of the page."""
        muse, run = given[self.muse], given[self.run]
        asked: dict[str, Any] = {"size": given[self.size] or None, "muse": muse}
        if self.studio.painter(run).paints:
            seed, to_seed = given[self.seed], given[self.to_seed]
            names = ["none" if name == UNLABELLED else name for name in given[self.label]]
            asked |= {"label": names or None, "n": given[self.n], "seed": seed, "steps": given[self.steps]}
            asked |= {"guidance": given[self.guidance], "strength": given[self.strength] if muse is not None else None}
            asked |= {name: words.strip() or None for name, words in self._words(given).items()}
            asked |= {"interpolate": [seed, to_seed] if to_seed is not None else None}
        copies = Copies()
        for shown in self.studio.paint(run, asked, visitor=visitor(request)):
            yield _seen(shown, copies)

    def _words(self, given: Mapping[Any, Any]) -> dict[str, str]:
        return {"prompt": given[self.prompt] or "", "negative": given[self.negative] or ""}

    def choose(self, listed: list[Made], event: gr.SelectData) -> tuple[str, Made]:
        """The command that repaints the selected picture, and the picture itself."""
        return listed[event.index].command, listed[event.index]

    def varied(self, run: str, one: Made | None) -> tuple[Any, ...]:
        """Label, seed, number of pictures, no second seed, and the prompts that paint variations of a picture."""
        if one is None:
            raise UserError("choose a picture first")
        told, _ = self.studio.about(one.path)
        painter, label = self.studio.painter(run), told.get("label")
        classes, known = painter.classes, bool(painter.vocabulary)
        if label is not None and label not in classes:
            raise UserError(f"this run does not know the label {label}: choose the run that painted the picture")
        names = [UNLABELLED if label is None else label] if classes else []
        words = (told.get(name, "") if known else "" for name in ("prompt", "negative"))
        return gr.update(value=names), int(told.get("seed", 0)) + 1, VARIED, None, *words


def _seen(shown: Shown, copies: Copies) -> tuple[Any, ...]:
    """Updates of the page for a job: its status, the emerging pictures, and the finished ones."""
    made = [(copies[one.path], one.title) for one in shown.made]
    return shown.status, gr.update(value=shown.emerging, visible=bool(shown.emerging)), made, shown.made
