"""What is raised when a store cannot be used."""


class StoreError(ValueError):
    """A store is damaged, foreign or dangerous; the message says where, and what to do."""
