"""The parts of the fault benchmark: a fault a module, and what they share."""
