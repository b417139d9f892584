"""How an object is shown, in a terminal and in a notebook: what it is, and a few facts by name."""

from collections.abc import Mapping
from html import escape


class Displayed:
    """Show the facts of an object as lines of text, and as a table where HTML is shown."""

    def facts(self) -> Mapping[str, object]:
        """Give what is worth knowing of it, by name."""
        raise NotImplementedError

    def __repr__(self) -> str:
        facts = self.facts()
        width = max(map(len, facts), default=0)
        lines = (f"  {name:<{width}}  {value}" for name, value in facts.items())
        return "\n".join([type(self).__name__, *lines])

    def _repr_html_(self) -> str:
        row = "<tr><th style='text-align: left'>{}</th><td style='text-align: left'>{}</td></tr>"
        rows = (row.format(escape(name), escape(str(fact))) for name, fact in self.facts().items())
        title = f"<caption style='text-align: left'><b>{type(self).__name__}</b></caption>"
        return f"<table>{title}{''.join(rows)}</table>"
