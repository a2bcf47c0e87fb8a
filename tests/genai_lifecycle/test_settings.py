"""How a setting is declared: its limits, its variable, what a message calls it, and what a mode reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai_lifecycle.cli.main import MODES
from genai_lifecycle.config import EVERY_MODE, E2EConfig
from genai_lifecycle.errors import ConfigError
from genai_lifecycle.settings import settings_of
from genai_lifecycle.stages.serve import ServeSettings


def test_a_number_has_its_limits():
    with pytest.raises(ConfigError, match="--port is 70000.\n  -> Use 1 to 65535."):
        ServeSettings(port=70000)


def test_a_wrong_value_of_the_environment_is_named_by_its_variable():
    with pytest.raises(ConfigError, match="^ENGINE is 'fast'"):
        E2EConfig.from_env({}, {"ENGINE": "fast"})
    with pytest.raises(ConfigError, match="^--engine is 'fast'"):
        E2EConfig.from_env({"engine": "fast"}, {"ENGINE": "torch"})


def every_setting():
    declared = {cls for mode in MODES.values() for cls in mode.settings} | {E2EConfig}
    return [item for cls in declared for item in settings_of(cls)]


def test_each_variable_is_of_one_setting():
    variables = [item.env for item in every_setting() if item.env]
    assert sorted(set(variables)) == sorted(variables)


def test_the_environment_gives_text_and_paths_only():
    """Nothing else is made of its texts: a number or a switch with a variable would be the text itself."""
    assert {item.kind for item in every_setting() if item.env} == {str, Path}


def test_what_a_mode_does_not_use_is_not_read():
    env = {"LIFECYCLE_MODEL": "gpt2", "MLFLOW_EXPERIMENT_NAME": "life", "ENGINE": "no engine"}
    config = E2EConfig.from_env({"model": "gpt2-large"}, env, groups=EVERY_MODE)
    assert (config.model, config.experiment_name, config.from_environment) == (None, "life", {"experiment_name"})
