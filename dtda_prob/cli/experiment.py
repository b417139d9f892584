"""An experiment: a Python file that defines a training."""

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dtda_prob.cli.output import completed_by

if TYPE_CHECKING:
    from dtda_prob.training import Training
    from dtda_prob.transforms import PushForward

HOW = (
    "define one, such as\n"
    "    training = dtda.Training(program, kernel, measure)\n"
    "or let `dtda new` write a file to start from"
)

PLAIN = ("unroll", "influence", "segments", "trajectory", "cosine", "covariance", "newton", "retrain")
"""Push-forwards that need a training and no other argument."""

method_option = click.option(
    "--method",
    shell_complete=completed_by(PLAIN),
    help=f"Push-forward: {', '.join(PLAIN)}, or a variable of the experiment.  "
    "[default: the experiment's own, or unroll]",
)
weights_option = click.option(
    "--weights", metavar="VARIABLE", help="Perturbed data: weights that the experiment defines."
)

_loaded: dict[Path, ModuleType] = {}


class Experiment(NamedTuple):
    """An imported file, and the training or push-forward that is meant."""

    module: ModuleType
    source: "Training | PushForward"

    @property
    def training(self) -> "Training":
        """Return the training that is meant, or the push-forward's."""
        from dtda_prob.training import Training

        return self.source if isinstance(self.source, Training) else self.source.training

    def push_forward(self, method: str | None) -> "PushForward":
        """Return the push-forward of `--method`, with default settings if it is a name of ours.

        Raises:
            click.BadParameter: if there is no such method.
        """
        import dtda_prob as dtda
        from dtda_prob.transforms import PushForward

        if method is None and isinstance(self.source, PushForward):
            return self.source
        name = method or "unroll"
        value = vars(self.module).get(name)
        if isinstance(value, PushForward):
            return value
        if name not in PLAIN:
            raise click.BadParameter(
                f"{name!r} is not one of {', '.join(PLAIN)}, nor a PushForward that "
                f"{self.module.__file__} defines",
                param_hint="--method",
            )
        return getattr(dtda, name)(self.training)

    def perturbed(self, removed: Sequence[str], weights: str | None) -> Any:
        """Return the weights of `--remove` or `--weights`; None for all data.

        Raises:
            click.UsageError: if both are given.
            click.BadParameter: for an unknown label or variable.
        """
        if removed and weights:
            raise click.UsageError("pass --remove or --weights, not both")
        if not removed and not weights:
            return None
        from dtda_prob.perturbations import check_weights, remove

        program = self.training.program
        if not weights:
            return remove(program, _labels(program.labels, removed))
        try:
            return check_weights(program, self.variable(weights))
        except (ValueError, TypeError) as error:
            raise click.BadParameter(
                f"{weights} holds no weights, which dtda.remove or dtda.leave_one_out return: {error}",
                param_hint="--weights",
            ) from error

    def variable(self, name: str) -> Any:
        """Return a variable of the file.

        Raises:
            click.BadParameter: if it defines none of this name.
        """
        defined = vars(self.module)
        if name not in defined:
            own = sorted(each for each in defined if not each.startswith("_"))
            file = self.module.__file__
            raise click.BadParameter(f"{file} defines no {name!r}; it defines {', '.join(own)}")
        return defined[name]


def load(words: str) -> Experiment:
    """Import an experiment.

    Args:
        words: `file.py`, or `file.py:name` if the file defines several trainings.

    Raises:
        click.ClickException: if the file does not exist or raises.
        click.BadParameter: if it defines no training, several, or none of this name.
    """
    file, name = _split(words)
    if not file.is_file():
        raise _refused(f"there is no file {str(file)!r}; `dtda new {file}` writes one to start from")
    module = _loaded.get(file.resolve()) or _import(file.resolve(), file)
    return Experiment(module, _chosen(module, file, name))


def user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the innermost line of an experiment that an error came through."""
    files = set(map(str, _loaded))
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((frame for frame in frames if frame.filename in files), None)


def _labels(labels: Any, chosen: Sequence[str]) -> list[Any]:
    """Return the labels with these texts: each text is one, or several separated by commas."""
    known = {str(label): label for label in labels.tolist()}
    names = [part for text in chosen for part in ([text] if text in known else text.split(","))]
    unknown = [name for name in map(str.strip, names) if name not in known]
    if unknown:
        some = ", ".join(list(known)[:5])
        raise click.BadParameter(
            f"no example has the label {unknown[0]!r}; the {len(known)} labels are {some}, ...",
            param_hint="--remove",
        )
    return [known[name.strip()] for name in names]


def _split(words: str) -> tuple[Path, str]:
    file, colon, name = words.rpartition(":")
    return (Path(file), name) if colon and name.isidentifier() else (Path(words), "")


def _import(path: Path, shown: Path) -> ModuleType:
    """Import a file under a name that no other module has, with its folder on the path."""
    spec = importlib.util.spec_from_file_location(_free_name(path.stem), path)
    if spec is None or spec.loader is None:
        raise _refused(f"{str(shown)!r} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[spec.name]
        raise click.ClickException(f"{shown} fails:\n{_traceback_in(path, error)}") from error
    _loaded[path] = module
    _send_by_value([module, *_beside(path.parent, before)])
    return module


def _traceback_in(file: Path, error: BaseException) -> str:
    """Return the part of a traceback that is in the user's file, and the error."""
    frames = traceback.extract_tb(error.__traceback__)
    listed = traceback.format_list([frame for frame in frames if frame.filename == str(file)])
    return "".join([*listed, *traceback.format_exception_only(error)]).rstrip()


def _free_name(stem: str) -> str:
    taken = stem in sys.modules or not stem.isidentifier() or importlib.util.find_spec(stem) is not None
    return f"dtda_experiment_{len(_loaded)}" if taken else stem


def _beside(folder: Path, before: set[str]) -> list[ModuleType]:
    """Return the modules of the same folder that the file has imported."""
    new = [sys.modules[name] for name in set(sys.modules) - before]
    files = [(module, getattr(module, "__file__", None)) for module in new]
    return [module for module, file in files if file and Path(file).resolve().parent == folder]


def _send_by_value(modules: list[ModuleType]) -> None:
    """Pickle the user's functions by value, since other processes could not import them."""
    import cloudpickle

    for module in modules:
        cloudpickle.register_pickle_by_value(module)


def _chosen(module: ModuleType, file: Path, name: str) -> Any:
    """Return the training or push-forward of a name, or the only one."""
    from dtda_prob.training import Training
    from dtda_prob.transforms import PushForward

    trainings, pushes = _sources(module, Training), _sources(module, PushForward)
    if name:
        value = vars(module).get(name)
        if isinstance(value, Training | PushForward):
            return value
        own = [*trainings, *pushes]
        there = f"it defines {', '.join(own)}" if own else HOW
        raise _refused(f"{file} defines no Training or PushForward called {name!r}; {there}")
    several = trainings or pushes
    if not several:
        raise _refused(f"{file} defines no Training; {HOW}")
    if len(several) > 1:
        listed = ", ".join(f"{file}:{name}" for name in several)
        raise _refused(f"{file} defines several; name one of {listed}")
    return next(iter(several.values()))


def _sources(module: ModuleType, kind: type) -> dict[str, Any]:
    """Return the objects of a kind by name; once, if several names refer to one."""
    named: dict[int, tuple[str, Any]] = {}
    for name, value in vars(module).items():
        if isinstance(value, kind) and not name.startswith("_"):
            named.setdefault(id(value), (name, value))
    return dict(named.values())


def _refused(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="EXPERIMENT")
