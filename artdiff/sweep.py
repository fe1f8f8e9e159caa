"""Search for the best settings of a training: `python -m artdiff.sweep search=painting experiment=paint32 …`.

Or for the best sampling settings: `python -m artdiff.sweep search=guidance ckpt=RUN`. Settings that begin with
`search.` are the search's, all others are passed to each training or evaluation. Needs the extra `sweep`.
"""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from artdiff import Interrupted, UserError, runs
from artdiff.cli import BY_SIGNAL, composed, typed
from artdiff.files import make_folder, user_path, write
from artdiff.ingest import tables
from artdiff.overrides import for_hydra, quoted, values_by_name, with_search_path, written
from artdiff.rules import POSITIVE_WHOLE, number, one_of, positive, whole
from artdiff.runs import Run
from artdiff.settings.base import CONF, Settings, refuse_inside
from artdiff.settings.evaluation import EvaluateSettings
from artdiff.settings.training import TrainSettings

log = logging.getLogger(__name__)

VALIDATIONS = "validations.jsonl"
"""File in a trial's folder with the value of each validation (written by `artdiff.training.trial`)."""

MONITORED = ("frechet", "kernel", "precision", "recall", "density", "coverage")
"""Scores that a search over evaluations can optimise."""

OWN_FOLDER = {"train": ("run_dir", "hydra.run.dir"), "evaluate": ("out",)}
"""Settings that name the folder of each command. The search sets them, so that each trial has its own folder."""

FOLDER, PROCESS, REASON = "folder", "process", "reason"
"""Attributes of a trial in the study: its folder in that of the search, its process id, and why it failed."""

LOOK = 0.5
"""Seconds between two checks of the running trials."""

PATIENCE = 120
"""Seconds to wait for a training to save and stop."""

FEWEST = 5
"""Trials that must end before others may be stopped early."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings(Settings):
    """`conf/sweep.yaml` and `conf/search`."""

    prefix: ClassVar[str] = "search."

    command: Literal["train", "evaluate"] = "train"
    monitor: str
    mode: Literal["min", "max"]
    space: dict[str, Any]
    trials: Annotated[int, POSITIVE_WHOLE]
    jobs: Annotated[int, POSITIVE_WHOLE]
    prune: bool
    seed: Annotated[int, whole(0, 2**32 - 1)]
    out: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.command == "evaluate":
            one_of(*MONITORED)("search.monitor", self.monitor)
        if not self.ranges:
            raise UserError(
                "search.space names no setting: add one with '+search.space.optimizer.lr={low:1e-4,high:1e-2}'"
            )
        for name, values in self.ranges.items():
            if _choices(values):
                continue
            if not isinstance(values, Mapping) or not {"low", "high"} <= set(values) <= {"low", "high", "log", "step"}:
                raise UserError(
                    f"search.space.{name} must have choices, or low and high (with log or step), got {values}"
                )
            for end in ("low", "high"):
                number(f"search.space.{name}.{end}", values[end])
            if "step" in values:
                (whole(1) if _is_whole(values) else positive)(f"search.space.{name}.step", values["step"])
            if values["low"] > values["high"] or (values.get("log") and (values["low"] <= 0 or "step" in values)):
                raise UserError(
                    f"search.space.{name} must have low below high, and with log low above 0 and no step, got {values}"
                )

    @property
    def ranges(self) -> dict[str, Any]:
        """The settings that vary: full name → range or choices."""
        return dict(_flat(self.space))


def _flat(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in space.items():
        is_group = isinstance(value, Mapping) and not {"low", "high", "choices"} & set(value)
        yield from _flat(value, f"{prefix}{name}.") if is_group else [(f"{prefix}{name}", value)]


def _choices(values: Any) -> list[Any]:
    """Return the values to choose from; empty for a range."""
    given = values.get("choices") if isinstance(values, Mapping) else values
    return given if isinstance(given, list) else []


def _is_whole(values: Mapping[str, Any]) -> bool:
    """Return whether a range is of whole numbers."""
    return all(isinstance(values[end], int) for end in ("low", "high"))


@dataclass
class Running:
    """A running trial: its entry in the study, its folder and process, and the number of validations read so far."""

    trial: Any
    run: Run
    process: "subprocess.Popen[bytes]"
    read: int = 0
    is_pruned: bool = False


def sweep(settings: SearchSettings, words: Sequence[str]) -> Path:
    """Run a search over trainings or evaluations with the overrides `words`; resume the study in `search.out`, if any.

    Returns the file of the best settings; for trainings, an experiment for Hydra. Raises `UserError`, and `Interrupted`
    after all trials have saved and stopped.
    """
    optuna = _optuna()
    for word in words:
        if word.lstrip("+").partition("=")[0] in OWN_FOLDER[settings.command]:
            raise UserError(f"{word} would be the folder of all trials of the search: set search.out=DIR")
    is_training = settings.command == "train"
    folder = "run_dir=/unused" if is_training else "out=/unused"
    config = composed(settings.command, [*words, folder])
    each: TrainSettings | EvaluateSettings
    each = TrainSettings.of(config) if is_training else EvaluateSettings.of(config)  # raises for a mistake
    out = _folder(settings, words, config["runs_dir"])
    if each.data.root is not None:
        refuse_inside("search.out", str(out), each.data.root)
    for name, values in settings.ranges.items():
        first = _choices(values)[0] if _choices(values) else values["low"]
        composed(settings.command, [*words, folder, f"{name}={written(first)}"])  # raises for an unknown setting
    make_folder(out, name="search.out")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{out / 'study.db'}",
        study_name="artdiff",
        load_if_exists=True,
        direction="minimize" if settings.mode == "min" else "maximize",
        sampler=optuna.samplers.TPESampler(seed=settings.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FEWEST) if settings.prune else optuna.pruners.NopPruner(),
    )
    _requeue_abandoned(study, optuna)
    log.info("search in %s: %s trials, %s at a time", out, settings.trials, settings.jobs)
    running: list[Running] = []
    try:
        with _signals():
            while running or len(_ended(study)) < settings.trials:
                while len(running) < settings.jobs and len(_ended(study)) + len(running) < settings.trials:
                    running.append(_start(study.ask(), settings, words, out))
                time.sleep(LOOK)
                for one in [*running]:
                    _poll(one, settings)
                    if one.process.poll() is not None:
                        running.remove(one)
                        _end(one, study, optuna, settings)
    except KeyboardInterrupt:
        for one in running:
            one.process.send_signal(signal.SIGTERM)
        for one in running:
            one.process.wait()
        log.warning("stopped; the same command with search.out=%s resumes", out)
        raise
    return _report(study, optuna, settings, words, out)


def _folder(settings: SearchSettings, words: Sequence[str], runs_dir: str) -> Path:
    """Return the folder of the search."""
    if settings.out is not None:
        return user_path(settings.out)
    experiment = values_by_name(words).get("experiment", "baseline")
    name = experiment if settings.command == "train" else settings.command
    return Path(runs_dir) / f"{name}_sweep" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("a search needs the extra sweep: pip install 'artdiff[sweep]'") from None
    return optuna


def _ended(study: Any) -> list[Any]:
    """Return the trials that have ended: neither running, waiting, nor restarted by `_requeue_abandoned`."""
    trials = study.get_trials(deepcopy=False)
    return [one for one in trials if one.state.is_finished() and (one.state.name != "FAIL" or REASON in one.user_attrs)]


def _requeue_abandoned(study: Any, optuna: Any) -> None:
    """Start again the trials that a killed search left running, with the same values and folders.

    In the study, the old entries fail without a reason.
    """
    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        _wait_for(left.user_attrs.get(PROCESS), left.user_attrs.get(FOLDER))
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(left.params, user_attrs={FOLDER: left.user_attrs.get(FOLDER)})


def _wait_for(process: int | None, folder: str | None) -> None:
    """Wait for a trial whose search has died: a training notices this, saves and stops."""
    command = Path(f"/proc/{process}/cmdline")
    waited = 0.0
    while process is not None and folder is not None and command.exists() and waited < PATIENCE:
        try:
            if folder.encode() not in command.read_bytes():  # the process id belongs to another program now
                return
        except OSError:  # it has just ended
            return
        time.sleep(LOOK)
        waited += LOOK


def _start(trial: Any, settings: SearchSettings, words: Sequence[str], out: Path) -> Running:
    values = {name: _suggested(trial, name, values) for name, values in settings.ranges.items()}
    folder = trial.user_attrs.get(FOLDER) or f"trial_{trial.number:04d}"
    trial.set_user_attr(FOLDER, folder)
    run = Run(out / folder)
    make_folder(run.folder, name="search.out")
    chosen = [f"{name}={written(value)}" for name, value in values.items()]
    is_training = settings.command == "train"
    own = _training(run, settings) if is_training else [f"out={quoted(str(run.folder))}"]
    usual = [] if is_training else ["representation=0", "originality=false"]  # a trial needs only its scores
    command = [sys.executable, "-m", f"artdiff.{settings.command}", *usual, *words, *chosen, *own]
    log.info("trial %s: %s", trial.number, " ".join(chosen))
    with (run.folder / "output.log").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                                   start_new_session=True)  # fmt: skip
    trial.set_user_attr(PROCESS, process.pid)
    return Running(trial, run, process)


def _training(run: Run, settings: SearchSettings) -> list[str]:
    """Return the overrides that make a training a trial."""
    told_to = f"${{run_dir}}/{VALIDATIONS}"  # each stage of a run has its own
    callback = {"_target_": "artdiff.training.trial.Trial", "path": told_to, "monitor": settings.monitor}
    told = [f"+callbacks.trial.{name}={quoted(value)}" for name, value in callback.items()]
    carried = ["ckpt=last"] if run.has_saved else []
    return [*told, f"+callbacks.trial.parent={os.getpid()}", f"hydra.run.dir={quoted(str(run.folder))}", *carried]


def _suggested(trial: Any, name: str, values: Any) -> Any:
    if _choices(values):
        return trial.suggest_categorical(name, _choices(values))
    ask = trial.suggest_int if _is_whole(values) else trial.suggest_float
    return ask(name, values["low"], values["high"], **{key: values[key] for key in ("log", "step") if key in values})


def _poll(one: Running, settings: SearchSettings) -> None:
    """Report the new validations of a trial to the study, and stop the trial if the study prunes it."""
    found = _validations(one.run, settings)
    for place, (step, value) in list(enumerate(found))[one.read :]:
        if not math.isnan(value):
            one.trial.report(value, place)  # by number of validation, since steps differ in runs limited by time
            log.info("trial %s: %s %.4g at step %s", one.trial.number, settings.monitor, value, f"{step:,}")
    is_new, one.read = len(found) > one.read, len(found)
    can_stop = settings.command == "train"  # an evaluation has a score only at its end
    if can_stop and is_new and not one.is_pruned and one.process.poll() is None and one.trial.should_prune():
        one.is_pruned = True
        one.process.send_signal(signal.SIGTERM)


def _validations(run: Run, settings: SearchSettings) -> list[tuple[int, float]]:
    """Return (step, value) of each validation of a training, or of an evaluation that has ended."""
    if settings.command == "evaluate":
        path = run.folder / runs.SCORES
        scores = json.loads(path.read_text(encoding="utf-8"))["scores"] if path.exists() else []
        return [(1, float(_value(scores[0], settings.monitor)))] if scores else []
    path = run.folder / VALIDATIONS
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []  # the last may be incomplete
    return [tuple(json.loads(line)) for line in lines]


def _end(one: Running, study: Any, optuna: Any, settings: SearchSettings) -> None:
    values = [value for _, value in _validations(one.run, settings) if not math.isnan(value)]
    state = optuna.trial.TrialState
    if one.is_pruned:
        study.tell(one.trial, state=state.PRUNED)
        log.info("trial %s: stopped, since it is behind the others", one.trial.number)
    elif one.process.returncode == 0 and values:
        best = (min if settings.mode == "min" else max)(values)
        study.tell(one.trial, best)
        log.info("trial %s: %s %.4g", one.trial.number, settings.monitor, best)
    else:
        reason = _last_line(one.run.folder / "output.log")
        one.trial.set_user_attr(REASON, reason)
        study.tell(one.trial, state=state.FAIL)
        log.error("trial %s failed: %s", one.trial.number, reason)


def _value(scores: Mapping[str, Any], name: str) -> float:
    """Return a score of all pictures by name, from an entry of `scores.json`."""
    if name in scores["manifold"]:
        return scores["manifold"][name]
    return scores["frechet"]["value"] if name == "frechet" else scores["kernel"]


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _report(study: Any, optuna: Any, settings: SearchSettings, words: Sequence[str], out: Path) -> Path:
    """Write the table, the plots and the best settings, and return the file of the latter. Raises `UserError` if no
    trial has succeeded.
    """
    trials = _ended(study)
    heading = ("trial", "state", settings.monitor, *settings.ranges, "folder", "reason")
    lines = [(str(one.number), one.state.name.lower(), "" if one.value is None else f"{one.value:.6g}",
              *(str(one.params.get(name, "")) for name in settings.ranges),
              one.user_attrs.get(FOLDER, ""), one.user_attrs.get(REASON, "")) for one in trials]  # fmt: skip
    write(out / "trials.tsv", tables.table(heading, lines))
    if not any(one.state.name == "COMPLETE" for one in trials):
        raise UserError(f"no trial of the search succeeded: see {out}/trials.tsv")
    _plot(study, optuna, out)
    best = study.best_trial
    log.info("best: trial %s, %s %.4g: %s", best.number, settings.monitor, best.value, best.params)
    log.info("all trials: %s", out / "trials.tsv")
    if settings.command == "train":
        path = _experiment(best.params, words, out)
        log.info("next:\n  %s", _best(words, out))
        return path
    path = out / "best.yaml"
    write(path, yaml.safe_dump(best.params))
    ckpt = [word for word in words if word.startswith("ckpt=")]
    chosen = [f"{name}={written(value)}" for name, value in best.params.items()]
    log.info("next:\n  %s", typed("artdiff.generate", *ckpt, *chosen, "out=DIR"))
    return path


def _best(words: Sequence[str], out: Path) -> str:
    """Return the command that trains with the best settings, with the search's own `--config-dir` folders."""
    places = [word for word in with_search_path(words) if word.startswith("hydra.searchpath=")]
    return typed("artdiff.train", "--config-dir", out.absolute(), "experiment=best", *places)


def _plot(study: Any, optuna: Any, out: Path) -> None:
    """Write Optuna's plots as web pages that work offline."""
    kinds = {"history": "plot_optimization_history", "slices": "plot_slice", "parallel": "plot_parallel_coordinate",
             "courses": "plot_intermediate_values"}  # fmt: skip
    for name, plot in kinds.items():
        figure = getattr(optuna.visualization, plot)(study)
        figure.write_html(out / f"{name}.html", include_plotlyjs="directory")


def _experiment(params: Mapping[str, Any], words: Sequence[str], out: Path) -> Path:
    """Write the overrides and the best values as an experiment, `OUT/experiment/best.yaml`."""
    defaults: list[Any] = []
    values: dict[str, Any] = {}
    base = None
    chosen = [f"{name}={written(value)}" for name, value in params.items()]
    for word in (*for_hydra(with_search_path(words)), *chosen):
        override = OverridesParser.create().parse_override(word)
        key, value = override.key_or_group, override.value()
        if key.startswith("hydra."):  # an experiment cannot set it
            continue
        if key == "experiment":
            base = str(value)
        elif (CONF / key).is_dir():
            defaults.append({f"override /{key}": value})
        else:
            place = values
            *groups, name = key.split(".")
            for group in groups:
                place = place.setdefault(group, {})
            place[name] = value
    heading = f"# @package _global_\n# Found by artdiff.sweep: {' '.join(f'{k}={v}' for k, v in params.items())}\n"
    content = {"defaults": [*([base] if base else []), "_self_", *defaults], **values}
    path = out / "experiment/best.yaml"
    make_folder(path.parent, name="search.out")
    write(path, heading + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


class _signals:  # noqa: N801 (reads as `with _signals()`)
    """Makes SIGINT and SIGTERM raise `Interrupted`."""

    def __enter__(self) -> None:
        self.before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for sent, handler in self.before.items():
            signal.signal(sent, handler)

    @staticmethod
    def _stop(number: int, frame: object) -> None:
        raise Interrupted(number)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        searches = ", ".join(sorted(path.stem for path in (CONF / "search").glob("*.yaml")))
        print(f"{__doc__}\nsearch: {searches}\n\n{(CONF / 'sweep.yaml').read_text(encoding='utf-8')}")
        return
    ours = [word for word in words if word.lstrip("+~").partition("=")[0].partition(".")[0] == "search"]
    theirs = [word for word in words if word not in ours]
    try:
        sweep(SearchSettings.of(composed("sweep", ours)["search"]), theirs)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except Interrupted as end:
        sys.exit(BY_SIGNAL + end.number)


if __name__ == "__main__":
    main()
