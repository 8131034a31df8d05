"""What a view shows of itself."""

import numpy as np
import pytest

from jacobia._display import describe, explanation, known_lines
from jacobia._fulfil import Plan


@pytest.mark.parametrize(
    ("rows", "columns", "whole", "text"),
    [
        ((0, 5), (0, 4), False, "nothing known"),
        ((2, 5), (0, 4), False, "2 of 5 rows known"),
        ((0, 5), (4, 4), False, "4 of 4 columns known"),
        ((2, 5), (1, 4), False, "2 of 5 rows and 1 of 4 columns known"),
        ((2, 5), (1, 4), True, "all known"),
    ],
)
def test_what_is_known(rows, columns, whole, text):
    assert known_lines(rows, columns, whole) == text


def test_a_view_on_one_line():
    text = describe("Jacobian", (5, 4), np.dtype("float32"), "nothing known")
    assert text == "Jacobian(shape=(5, 4), dtype=float32, nothing known)"


def test_an_explanation_names_the_way_the_other_way_and_why():
    text = explanation("a view", (2, 4), Plan("rows", 2, 4, "rows are asked for"), True, "jvp")
    assert text.splitlines() == [
        "a view",
        "asked for: shape (2, 4)",
        "to do: 2 pullbacks in one kernel call (rows are asked for); instead of 4 pushforwards",
        "f: compiled",
    ]
    other = explanation("a view", (4,), Plan("columns", 1, 5, "because"), True, "jvp")
    assert "to do: 1 pushforward in one kernel call (because); instead of 5 pullbacks" in other


def test_an_explanation_of_nothing_to_do():
    assert "to do: nothing; it is known" in explanation("a view", (), Plan("none", 0, 0, "it is known"), True, "jvp")


def test_an_explanation_says_what_is_slow_and_what_is_transposed():
    text = explanation("a view", (), Plan("columns", 1, 5, "because"), False, "transposed pullback")
    assert "its pullback is transposed" in text and "jit=False" in text and "slow" in text
