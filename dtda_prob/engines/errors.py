"""What goes wrong with those who compute, rather than with what they compute."""


class EngineError(RuntimeError):
    """Say that an engine cannot go on, and what to do; what it had finished has been reported."""
