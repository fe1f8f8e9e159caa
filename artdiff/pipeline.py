"""A painter that is called as pipelines of diffusers are, for programs that were written for those."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from PIL import Image

from artdiff import UserError
from artdiff.painter import Painter, Painting, load
from artdiff.settings.base import Accelerator


class PipelineOutput(NamedTuple):
    """Pictures, RGB, and the same as paintings, whose `save` writes files that say that a model made them."""

    images: list[Image.Image]
    paintings: list[Painting]


class Pipeline:
    """Paints when it is called, with the names of arguments that pipelines of diffusers have.

    What is None is as for `Painter.paint`, which has more settings: it is at `pipeline.painter`.
    """

    def __init__(self, painter: Painter) -> None:
        if not painter.paints:
            raise UserError(f"{painter.path} reconstructs pictures: artdiff.load(…).reconstruct(picture) does that")
        self.painter = painter

    @classmethod
    def from_pretrained(cls, model: str, *, device: Accelerator = "auto", **how: Any) -> Self:
        """A pipeline with a run, a checkpoint, what `artdiff.export` wrote, or `hf://USER/NAME`; `how` as for `load`.

        Raises `UserError` if there is no such model, or if it paints no new pictures.
        """
        return cls(load(model, device=device, **how))

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Image.Image | str | Path | None = None,
        *,
        class_labels: str | Sequence[str] = "none",
        negative_prompt: str | None = None,
        strength: float | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        generator: torch.Generator | None = None,
    ) -> PipelineOutput:
        """Paint `num_images_per_prompt` pictures of each prompt and label, from noise or from `image`.

        They come label by label, those of each prompt by prompt. The first seed of each is drawn from `generator`, or
        from torch's own; the settings of the paintings say it. `width` and `height` are in pixels, and one alone is a
        square's side.

        Raises `UserError` for an unknown label, a value out of range or an image that cannot be read.
        """
        sides = [str(side) for side in (width, height) if side is not None]
        asked = {
            "n": num_images_per_prompt, "prompt": prompt, "label": class_labels, "negative": negative_prompt,
            "muse": image, "strength": strength, "steps": num_inference_steps, "guidance": guidance_scale,
            "size": "x".join(sides) or None,
        }  # fmt: skip
        rows, settings = self.painter.planned(self.painter.settings(asked))
        drawn_on = generator.device if generator is not None else "cpu"
        for row in rows:
            seed = int(torch.randint(2**31, (), generator=generator, device=drawn_on))
            row.settings = replace(row.settings, seed=seed)
        paintings = list(self.painter.fill(rows, settings))
        return PipelineOutput([painting.picture for painting in paintings], paintings)
