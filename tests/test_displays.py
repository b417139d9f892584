"""What things look like in a terminal and in a notebook."""

from html.parser import HTMLParser

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tables import train

import dtda_prob as dtda


class Cells(HTMLParser):
    """Collect the text of a table, and all its tags."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.tags = [], set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


TRAINING = train("phases")
SHOWN = [
    (TRAINING.program, {"data": "12 in plate 'data'", "parameters": "3", "prior": "yes"}),
    (TRAINING.program.drop(2), {"data": "12 in plate 'data', 2 of them dropped"}),
    (TRAINING, {"kernel": repr(TRAINING.kernel), "measure": "loss of 4 queries"}),
    (dtda.influence(TRAINING), {"measure": "loss of 4 queries", "observed": "y"}),
]


@pytest.mark.parametrize(("shown", "facts"), SHOWN)
def test_text_and_table_tell_the_same_facts(shown, facts):
    title, *lines = repr(shown).splitlines()
    assert title == type(shown).__name__
    assert [line.split(maxsplit=1)[0] for line in lines] == [name.split()[0] for name in shown.facts()]
    cells = Cells(shown._repr_html_())
    assert cells.texts == [title, *(str(each) for pair in shown.facts().items() for each in pair)]
    told = {name: str(fact) for name, fact in shown.facts().items()}
    assert facts.items() <= told.items()


def test_a_kernel_is_shown_as_code():
    kernel = dtda.kernels.keep(dtda.kernels.exact(0.5), 3, thinning=2)
    assert repr(kernel) == "keep(kernel=exact(temperature=0.5), num_states=3, thinning=2)"
    assert eval(repr(kernel), vars(dtda.kernels)) == kernel
    assert repr(dtda.kernels.sequence(kernel, dtda.kernels.lbfgs())).endswith("thinning=2), lbfgs())")


def test_names_from_the_user_are_text_and_no_markup():
    def model(x, y=None):
        with numpyro.plate("<b>", len(x)):
            numpyro.sample("<script>", dist.Normal(x, 1.0), obs=y)

    program = dtda.Program(model, np.arange(3.0), y=np.arange(3.0), plate="<b>")
    cells = Cells(program._repr_html_())
    assert cells.tags == {"table", "caption", "b", "tr", "th", "td"}
    assert "<script>" in cells.texts
