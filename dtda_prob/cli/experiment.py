"""An experiment: a Python file that defines a training."""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from dtda_prob.training import Training
    from dtda_prob.transforms import PushForward

HOW = (
    "define one, such as\n"
    "    training = dtda.Training(program, kernel, measure)\n"
    "or let `dtda new` write a file to start from"
)

_loaded: dict[Path, ModuleType] = {}


class Experiment(NamedTuple):
    """What a file defines.

    Attributes:
        module: the file, imported.
        source: the training or push-forward that is meant.
    """

    module: ModuleType
    source: "Training | PushForward"

    @property
    def training(self) -> "Training":
        """Give the training that is meant, or that the push-forward is made of."""
        from dtda_prob.outcomes.source import training_of

        return training_of(self.source)


def load(words: str) -> Experiment:
    """Import an experiment.

    Args:
        words: `file.py`, or `file.py:name` where the file defines several trainings.

    Raises:
        click.ClickException: if there is no such file, or it fails.
        click.BadParameter: if it defines no training, several, or none of this name.
    """
    file, name = _split(words)
    if not file.is_file():
        raise _refused(f"there is no file {str(file)!r}; `dtda new {file}` writes one to start from")
    module = _loaded.get(file.resolve()) or _import(file.resolve(), file)
    return Experiment(module, _named(module, file, name) if name else _only(module, file))


def loaded_files() -> list[Path]:
    """Give the files that were imported as experiments."""
    return [*_loaded]


def variable(experiment: Experiment, name: str) -> Any:
    """Give a variable of the experiment's file.

    Raises:
        click.BadParameter: if there is none of this name.
    """
    found = vars(experiment.module)
    if name not in found:
        own = sorted(each for each in found if not each.startswith("_"))
        raise click.BadParameter(
            f"{experiment.module.__file__} defines no {name!r}; it defines {', '.join(own)}"
        )
    return found[name]


def _split(words: str) -> tuple[Path, str]:
    file, colon, name = words.rpartition(":")
    return (Path(file), name) if colon and name.isidentifier() else (Path(words), "")


def _import(path: Path, shown: Path) -> ModuleType:
    """Import a file under a name that no other module has, with what lies beside it in reach."""
    spec = importlib.util.spec_from_file_location(_free_name(path.stem), path)
    if spec is None or spec.loader is None:
        raise _refused(f"{str(shown)!r} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise click.ClickException(f"{shown} fails:\n{_traceback_in(path, error)}") from error
    _loaded[path] = module
    _send_by_value([module, *_beside(path.parent, before)])
    return module


def _traceback_in(file: Path, error: BaseException) -> str:
    """Show where in a user's file an error was raised, and the error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_in(frame, file)]
    listed = traceback.format_list(frames) if frames else []
    return "".join([*listed, *traceback.format_exception_only(error)]).rstrip()


def _is_in(frame: traceback.FrameSummary, file: Path) -> bool:
    return frame.filename == str(file)


def _free_name(stem: str) -> str:
    taken = stem in sys.modules or not stem.isidentifier() or importlib.util.find_spec(stem) is not None
    return f"dtda_experiment_{len(_loaded)}" if taken else stem


def _beside(folder: Path, before: set[str]) -> list[ModuleType]:
    """Give the modules of the same folder that the file has imported."""
    new = [sys.modules[name] for name in set(sys.modules) - before]
    return [module for module in new if _folder_of(module) == folder]


def _folder_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve().parent if file else None


def _send_by_value(modules: list[ModuleType]) -> None:
    """Let other processes be sent the user's functions, which they could not import."""
    import cloudpickle

    for module in modules:
        cloudpickle.register_pickle_by_value(module)


def _sources(module: ModuleType, kind: type) -> dict[str, Any]:
    """Give what a module defines of a kind, by name; once, where several names mean it."""
    found: dict[int, tuple[str, Any]] = {}
    for name, value in vars(module).items():
        if isinstance(value, kind) and not name.startswith("_"):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def _only(module: ModuleType, file: Path) -> Any:
    from dtda_prob.training import Training
    from dtda_prob.transforms import PushForward

    trainings, pushes = _sources(module, Training), _sources(module, PushForward)
    found = trainings or pushes
    if not found:
        raise _refused(f"{file} defines no Training; {HOW}")
    if len(found) > 1:
        listed = ", ".join(f"{file}:{name}" for name in found)
        raise _refused(f"{file} defines several; name one of {listed}")
    return next(iter(found.values()))


def _named(module: ModuleType, file: Path, name: str) -> Any:
    from dtda_prob.training import Training
    from dtda_prob.transforms import PushForward

    found = _sources(module, Training) | _sources(module, PushForward)
    value = vars(module).get(name)
    if not isinstance(value, Training | PushForward):
        there = f"there are {', '.join(found)}" if found else HOW
        raise _refused(f"{file} defines no Training or PushForward called {name!r}; {there}")
    return value


def _refused(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="EXPERIMENT")
