"""Where tasks are computed: this process, pools of threads or processes, clusters."""

from dtda_prob.engines.compute import compute
from dtda_prob.engines.errors import EngineError

__all__ = ["EngineError", "compute"]
