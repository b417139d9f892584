"""Is a store safe to open: rules for what it declares, and for the files that are there."""

from dtda_prob.storage.inspection.inspection import inspect as inspect
