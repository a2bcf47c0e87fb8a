"""Bounds and defaults of what a caller may ask for; what the values do is in test_text_model.py."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from served_model.text_generation.sampling import Sampling

BOUNDS = {
    "max_new_tokens": ([1, 1024], [0, -1, 1025]),
    "temperature": ([0.0, 5.0], [-0.1, 5.1, float("nan")]),
    "top_p": ([0.001, 1.0], [0.0, 1.01, float("nan")]),
    "top_k": ([0, 10**6], [-1]),
    "repetition_penalty": ([0.1, 10.0], [0.0, 10.5, float("nan")]),
    "seed": ([-1, 0, 2**63 - 1], [-2, 2**63]),
    "stop": ([[], ["a" * 200] * 8], [[""], ["a"] * 9, ["a" * 201]]),
    "timeout_s": ([0.001, 3600.0], [0.0, -1.0, 3601.0, float("inf"), float("nan")]),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_of_each_parameter(name):
    allowed, refused = BOUNDS[name]
    for value in allowed:
        Sampling.from_params({name: value})
    for value in refused:
        with pytest.raises(MlflowException, match=f"^{name} is .*; use a value ") as error:
            Sampling.from_params({name: value})
        assert error.value.error_code == "INVALID_PARAMETER_VALUE"


def test_every_bound_is_tested():
    assert set(BOUNDS) == set(Sampling.__dataclass_fields__)


def test_none_is_the_default_and_unknown_parameters_are_left_alone():
    assert Sampling.from_params(None) == Sampling.from_params({"seed": None, "colour": 1}) == Sampling()


def test_only_temperature_0_is_greedy():
    assert Sampling(temperature=0, top_k=3, seed=1).is_greedy
    assert not Sampling(temperature=0.01).is_greedy


def test_numbers_of_numpy_become_numbers():
    given = {"max_new_tokens": np.int64(3), "temperature": np.float32(1), "top_k": np.int64(4), "seed": np.int64(2)}
    assert json.loads(json.dumps(asdict(Sampling.from_params(given))))["top_k"] == 4
