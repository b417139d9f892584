"""Studies: computations over a grid of blocks, in memory or in a store, here or on an engine."""
