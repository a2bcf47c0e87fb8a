"""Every accepted form of input, and every form that is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from served_model.text_generation.inputs import Turn, turns_from

GOOD = {
    "a string": ("a", 1),
    "a dict": ({"question": "a"}, 1),
    "a dict with a list": ({"question": ["a", "b"]}, 2),
    "a dict with an array": ({"question": np.array(["a", "b"])}, 2),
    "a list of strings": (["a", "b"], 2),
    "a list of dicts": ([{"question": "a"}, {"question": "b"}], 2),
    "a mixed list": (["a", {"question": "b"}], 2),
    "a Series": (pd.Series(["a", "b"]), 2),
    "an array": (np.array(["a", "b"]), 2),
    "a DataFrame": (pd.DataFrame({"question": ["a", "b"], "else": [1, 2]}), 2),
    "a DataFrame with another index": (pd.DataFrame({"question": ["a", "b"]}, index=[7, 7]), 2),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_form_of_input_gives_the_same_turns(name):
    given, count = GOOD[name]
    assert turns_from(given) == [Turn("a"), Turn("b")][:count]


BAD = {
    "no question column": (pd.DataFrame({"text": ["a"]}), "no 'question'; it has ['text']"),
    "no question key": ({"text": "a"}, "no 'question'"),
    "null": ({"question": None}, "must be a text, not NoneType"),
    "None alone": (None, "must be a text, not NoneType"),
    "NaN": (pd.DataFrame({"question": ["a", float("nan")]}), "must be a text, not float"),
    "pandas' NA": (pd.DataFrame({"question": pd.Series(["a", pd.NA], dtype=object)}), "must be a text, not N"),
    "a number": (5, "must be a text, not int"),
    "a number in a Series": (pd.Series([1.5]), "must be a text, not float"),
    "bytes": (b"a", "must be a text, not bytes"),
    "empty text": ("", "is empty"),
    "spaces": ([" \n\t"], "is empty"),
    "half a character": ({"question": "a \ud83d"}, "half of a character"),
    "an empty list": ([], "no question in the input"),
    "an empty list in a dict": ({"question": []}, "no question in the input"),
    "an empty DataFrame": (pd.DataFrame({"question": []}), "no question in the input"),
    "a dict in a dict": ({"question": {"text": "a"}}, "must be a text, not dict"),
    "a list in a list in a dict": ({"question": [["a"]]}, "must be a text, not list"),
    "a history that is a text": ({"question": "a", "history": "before"}, "history must be a list"),
    "a history with a number": ({"question": "a", "history": ["b", 3]}, "must be a text, not int"),
    "a history with an empty turn": ({"question": "a", "history": ["b", ""]}, "is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_sentence(name):
    given, message = BAD[name]
    with pytest.raises(MlflowException) as refused:
        turns_from(given)
    assert message in refused.value.message
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert refused.value.message.endswith(".")


@pytest.mark.parametrize("history", [["x", "y"], ("x", "y"), np.array(["x", "y"]), pd.Series(["x", "y"])])
def test_history_as_any_kind_of_list(history):
    assert turns_from({"question": "a", "history": history}) == [Turn("a", ("x", "y"))]


def test_rows_without_history_beside_rows_with_one():
    rows = [{"question": "a", "history": ["x", "y"]}, {"question": "b"}]
    assert turns_from(pd.DataFrame(rows)) == [Turn("a", ("x", "y")), Turn("b")]
    for none in (None, float("nan"), pd.NA, []):
        assert turns_from({"question": "b", "history": none}) == [Turn("b")]
