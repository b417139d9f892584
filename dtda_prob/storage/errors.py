"""What is wrong with a store."""


class StoreError(ValueError):
    """A store is damaged, foreign, in use, or holds something else than was asked for."""
