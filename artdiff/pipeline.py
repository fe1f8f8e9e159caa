"""A painter with the call interface of diffusers pipelines, for programs that were written for those."""

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
    """RGB pictures, and the same pictures as paintings, whose `save` notes in the file that a model made it."""

    images: list[Image.Image]
    paintings: list[Painting]


class Pipeline:
    """Paints when called, with the argument names of diffusers pipelines.

    An argument that is None has the default of `Painter.paint`. `pipeline.painter` is the painter, which has more
    settings.
    """

    def __init__(self, painter: Painter) -> None:
        if not painter.paints:
            raise UserError(f"{painter.path} reconstructs pictures: artdiff.load(…).reconstruct(picture) does that")
        self.painter = painter

    @classmethod
    def from_pretrained(cls, model: str, *, device: Accelerator = "auto", **how: Any) -> Self:
        """Load a run, a checkpoint, a folder of `artdiff.export`, or `hf://USER/NAME`; `how` has arguments of `load`.

        Raises `UserError` if there is no such model, or if it does not paint new pictures.
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

        They are ordered by label, then by prompt. The first seed of each combination is drawn from `generator`, or from
        torch's default generator; the settings of the paintings contain it. `width` and `height` are in pixels; if only
        one is given, the picture is square.

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
