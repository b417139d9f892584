"""Score by one library in one setting, in this process alone, and note seconds and memory.

Run as `python measure.py FOLDER LIBRARY SETTING LIMIT`: models are scored one after the other, until
all are, or their scores have taken LIMIT processor seconds. A score says by how much the loss of a
query rises if the example is removed, up to a positive factor.
"""

import importlib
import inspect
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from task import Task

COUNTS = (1, 4, 16)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lines(parts: tuple) -> int:
    """Count the lines of code, without empty ones, comments and docstrings."""
    text = [line.strip() for part in parts for line in inspect.getsource(part).splitlines()]
    return len([line for line in text if line and line[0] not in "#\"'"])


def stop(*ignored) -> None:
    raise TimeoutError("one model takes too long")


def main(folder: Path, library: str, setting: str, limit: float) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, 4 * limit)
    task, before = Task.load(folder), megabytes()
    states = task.states()
    made = {}
    try:
        module = importlib.import_module(f"with_{library}")
        score, uses = module.SETTINGS[setting]
        joint = getattr(module, "JOINT", False)
        draws, seconds, start = [], [], time.process_time()
        for i in range(4 if joint else getattr(module, "MOST", len(states))):
            torch.manual_seed(i)
            draws.append(np.asarray(score(task, states[i : i + 1] if joint else states[i], i)))
            seconds.append(time.process_time() - (start if i else 0.0) - sum(seconds[1:]))
            if i == 0:
                signal.setitimer(signal.ITIMER_PROF, 0)
                start = time.process_time()
            if time.process_time() + seconds[-1] > limit:
                break
        for count in [n for n in COUNTS[1:] if joint and n <= len(states)]:
            if time.process_time() < limit:
                made[f"joint_{count}"] = score(task, states[:count], 0)
        made |= {
            "draws": np.stack(draws),
            "first": seconds[0],
            "warm": np.mean(seconds[1:]) if len(seconds) > 1 else np.nan,
            "megabytes": megabytes() - before,
            "lines": lines((score, *uses)),
        }
    except Exception as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1].line
        made = {"error": f"{type(error).__name__}: {str(error) or where}"}
    np.savez(folder / f"{library}-{setting}.npz", **made)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
