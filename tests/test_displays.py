"""What things look like in a terminal and in a notebook."""

from html.parser import HTMLParser

import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from tables import KERNELS, MORE_KERNELS, queries, regression, train

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
    (TRAINING, {"kernel": "sgd, 6 steps, then sgd, 3 steps", "measure": "loss of 4 queries"}),
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


@pytest.mark.parametrize("name", KERNELS | MORE_KERNELS)
def test_every_kernel_has_a_name(name):
    kernel = (KERNELS | MORE_KERNELS)[name]
    assert all(phase.name != "training" for phase in kernel.phases)
    assert repr(kernel) == ", then ".join(phase.name for phase in kernel.phases)


def test_states_of_a_run_are_told():
    kernel = dtda.kernels.keep(dtda.kernels.sgd(optax.sgd(0.1), num_steps=6), 3)
    assert repr(kernel) == "sgd, 3 states of each run"
    assert dtda.Training(regression(), kernel, queries()).facts()["states of each run"] == 3


def test_names_from_the_user_are_text_and_no_markup():
    def model(x, y=None):
        with numpyro.plate("<b>", len(x)):
            numpyro.sample("<script>", dist.Normal(x, 1.0), obs=y)

    program = dtda.Program(model, np.arange(3.0), y=np.arange(3.0), plate="<b>")
    cells = Cells(program._repr_html_())
    assert cells.tags == {"table", "caption", "b", "tr", "th", "td"}
    assert "<script>" in cells.texts
