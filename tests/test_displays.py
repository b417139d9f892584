"""What things look like in a terminal."""

from tables import regression, train

import dtda_prob as dtda

PROGRAM = "Program(linear_regression, examples=12, {}observed=['y'], parameters=3, prior=True)"


def test_a_program_shows_what_it_holds():
    assert repr(regression()) == PROGRAM.format("")
    assert repr(regression().drop(2)) == PROGRAM.format("rows=10, ")


def test_a_training_shows_program_kernel_and_measure():
    shown = repr(train("phases"))
    assert shown.startswith(f"Training(program={PROGRAM.format('')}, kernel=")
    assert shown.endswith("measure=loss(f32[4,3], noise=0.5, prior=2.0, y=f32[4]))")


def test_a_kernel_is_shown_as_code():
    kernel = dtda.kernels.keep(dtda.kernels.exact(0.5), 3, thinning=2)
    assert repr(kernel) == "keep(kernel=exact(temperature=0.5), num_states=3, thinning=2)"
    assert eval(repr(kernel), vars(dtda.kernels)) == kernel
    assert repr(dtda.kernels.sequence(kernel, dtda.kernels.lbfgs())).endswith("thinning=2), lbfgs())")
