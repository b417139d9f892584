"""Placeholder."""


def compute(task, items, engine, *, done, describe):
    for item in items:
        done(item, task(item))
