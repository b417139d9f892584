"""Where tasks are computed: in this process, by executors, on a cluster."""

from dtda_prob.engines.compute import compute as compute
