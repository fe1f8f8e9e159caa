"""Paint with a model that was exported as ONNX. Needs only NumPy, ONNX Runtime and Pillow.

    python paint_onnx.py --label NAME --prompt "SOME WORDS" --n 4 --seed 0 --out pictures

A seed gives another picture than in artdiff, since NumPy draws other noise. The samplers follow the straight path from
noise (time 0) to the picture (time 1).
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Denoiser = Callable[[Array, float], Array]
NO_LABEL = -1


class Model:
    """The networks and settings of an exported folder. `run(NAME, **inputs)` evaluates one network."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self.told: dict[str, Any] = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))
        self.sessions = {
            path.stem: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for path in folder.glob("*.onnx")
        }

    def run(self, name: str, **inputs: Array) -> Array:
        return self.sessions[name].run(None, inputs)[0]


def heun(denoise: Denoiser, noisy: Array, times: Sequence[float]) -> Array:
    """Heun's method: the mean of the velocities at both ends of each step."""
    for now, then in pairwise(times):
        slope = (denoise(noisy, now) - noisy) / (1 - now)
        arrived = noisy + (then - now) * slope
        if then < 1:
            slope = (slope + (denoise(arrived, then) - arrived) / (1 - then)) / 2
            arrived = noisy + (then - now) * slope
        noisy = arrived.astype(np.float32)
    return noisy


def multistep(denoise: Denoiser, noisy: Array, times: Sequence[float], *, order: int) -> Array:
    """Multistep method, after DPM-Solver++ (arXiv:2211.01095). Order 1 is Euler's method.

    The estimate is extrapolated as a polynomial in time through its last `order` values, and the ODE is solved exactly.
    """
    known: list[tuple[float, Array]] = []
    for now, then in pairwise(times):
        known = [(now, denoise(noisy, now)), *known[: order - 1]]
        past = trusted(known, now, then) if order == 3 else known
        if order == 3 and len(known) == 1 and then < 1:
            there = towards(noisy, known, now, then)
            past = [*known, (then, denoise(there, then))]
        noisy = towards(noisy, past, now, then)
    return noisy


def trusted(known: list[tuple[float, Array]], now: float, then: float) -> list[tuple[float, Array]]:
    """The last estimates that may be extrapolated for a step from `now` to `then`: fewer for a long step."""
    for count in range(len(known), 1, -1):
        if then - now <= 1.2 * (now - known[count - 1][0]) / (count - 1):
            return known[:count]
    return known[:1]


def towards(noisy: Array, known: Sequence[tuple[float, Array]], now: float, then: float) -> Array:
    """Take one step from the state `noisy` at time `now` to `then`; the first `known` estimate is that at `now`."""
    start, end = 1 - now, 1 - then
    log = np.log(start / end) if end else 0.0
    place = end / start * noisy + (1 - end / start) * known[0][1]
    line = start - end - end * log
    slopes = [(one - other) / (at - before) for (at, one), (before, other) in pairwise(known)]
    if slopes:
        place = place + line * slopes[0]
    if len(slopes) > 1:
        bend = (slopes[0] - slopes[1]) / (now - known[2][0])
        square = start**2 - start * end - 2 * start * end * log + end * (start - end)
        place = place + (square + (now - known[1][0]) * line) * bend
    return place.astype(np.float32)


SOLVERS: dict[str, Callable[[Denoiser, Array, Sequence[float]], Array]] = {
    "heun": heun,
    "euler": partial(multistep, order=1),
    "dpm_solver_2m": partial(multistep, order=2),
    "dpm_solver_3m": partial(multistep, order=3),
}
"""Samplers: from noise (B,C,H,W) at the first of `times` to the picture at the last one, which is 1."""


def paint(
    model: Model,
    label: Array,
    noise: Array,
    detail_noise: Sequence[Array],
    *,
    guidance: float,
    words: Array | None = None,
) -> Array:
    """Paint pictures (B,3,H,W) in [-1,1].

    Args:
        model: the networks.
        label: int64 (B,); -1 is none.
        noise: float32 (B,C,h,w); (C,h,w) is `latent` in `onnx.json`.
        detail_noise: float32 (B,3,h,w) for each refiner; (3,h,w) are the `details` in `onnx.json`.
        guidance: classifier-free guidance scale; 1 is off.
        words: int16 (B,W,P), for a model with captions: `numbers(prompts)` of artdiff_words.py.
    """
    told = model.told
    first, last = told["guidance_interval"]

    asked = {"label": label} if words is None else {"label": label, "words": words}
    nothing = {name: np.full_like(value, NO_LABEL) for name, value in asked.items()}
    asks = guidance != 1 and any((value != NO_LABEL).any() for value in asked.values())

    def at(noisy: Array, time: float, asked: dict[str, Array]) -> Array:
        return model.run("denoise", noisy=noisy, time=np.full(len(noisy), time, np.float32), **asked)

    def denoise(noisy: Array, time: float) -> Array:
        clean = at(noisy, time, asked)
        if not (asks and first <= time <= last):
            return clean
        without = at(noisy, time, nothing)
        return without + np.float32(guidance) * (clean - without)

    picture = model.run("decode", latent=SOLVERS[told["solver"]](denoise, noise, told["times"]))
    for number, noisy in enumerate(detail_noise, start=1):
        draft = picture

        def detail(noisy: Array, time: float, draft: Array = draft, name: str = f"detail_{number}") -> Array:
            times = np.full(len(noisy), time, np.float32)
            return model.run(name, noisy=noisy, draft=draft, time=times, label=label)

        start = (np.float32(told["detail_noise"]) * noisy).astype(np.float32)
        difference = SOLVERS[told["detail_solver"]](detail, start, told["detail_times"])
        picture = model.run(f"finish_{number}", draft=draft, difference=difference)
    return picture.clip(-1, 1)


def words_of(text: str | None) -> list[str]:
    """A label or a prompt as part of a file name: a list of one, empty without text."""
    return [re.sub(r"[^\w.-]+", "_", text)[:40]] if text else []


def free(folder: Path, name: str) -> Path:
    """A path that does not exist yet."""
    names = (folder / f"{name}{end}.png" for end in ("", *(f"_{count}" for count in range(2, 10**6))))
    return next(path for path in names if not path.exists())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", help="one of the labels in onnx.json; none without")
    parser.add_argument("--prompt", help="a caption to follow, for a model that was trained with captions")
    parser.add_argument("--n", type=int, default=4, help="how many pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, help="how strongly to follow label and prompt: 1 is off")
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="the folder with the networks")
    args = parser.parse_args()
    from PIL import Image, PngImagePlugin

    model = Model(args.model)
    classes = model.told["classes"]
    if args.label is not None and args.label not in classes:
        parser.error(f"unknown label {args.label}; expected one of {', '.join(classes)}")
    words = None
    if model.told["knows_words"]:
        from artdiff_words import numbers  # in the folder of this program

        words = numbers([args.prompt] * args.n)
    elif args.prompt is not None:
        parser.error("this model was trained without captions: leave --prompt out")
    label = np.full(args.n, classes.index(args.label) if args.label is not None else NO_LABEL, np.int64)
    generators = [np.random.default_rng(args.seed + number) for number in range(args.n)]
    shapes = [model.told["latent"], *model.told["details"]]
    drawn = [[one.standard_normal(shape, dtype=np.float32) for one in generators] for shape in shapes]
    noise, *detail_noise = map(np.stack, drawn)
    guidance = model.told["guidance"] if args.guidance is None else args.guidance
    painted = paint(model, label, noise, detail_noise, guidance=guidance, words=words)
    args.out.mkdir(parents=True, exist_ok=True)
    generated = PngImagePlugin.PngInfo()  # marks the picture as made by a model
    generated.add_itxt(
        "XML:com.adobe.xmp",
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
        "</rdf:RDF></x:xmpmeta>",
    )
    for number, one in enumerate(painted):
        pixels = ((one.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
        path = free(args.out, "_".join([*words_of(args.label), *words_of(args.prompt), str(args.seed + number)]))
        Image.fromarray(pixels).save(path, pnginfo=generated)
        print(path)


if __name__ == "__main__":
    main()
