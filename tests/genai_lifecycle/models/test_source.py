"""Where the base model comes from: folders, pickles, and a HuggingFace cache laid out as the Hub lays it out."""

from __future__ import annotations

import json
import pickle
import shutil
import time

import pytest
from tiny_model import COMMIT, lay_out_as_hub, make_dialogpt, make_pickled

from genai_lifecycle.errors import ModelNotLoadable, UnsafeWeights
from genai_lifecycle.models.source import find_model, needed_files


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty HuggingFace cache that the installed client uses."""
    import huggingface_hub.constants as constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_folder_is_taken_as_it_is(make_config, tiny_gpt2):
    source = find_model(make_config(model=str(tiny_gpt2)))
    assert (source.origin, source.path, source.turn_format) == ("folder", str(tiny_gpt2), "plain")
    assert len(source.weights_sha256) == 64
    assert not source.converted


def test_dialogpt_is_known_by_its_mark_and_the_flag_wins(make_config, tmp_path):
    folder = make_dialogpt(tmp_path / "some-model")
    assert find_model(make_config(model=str(folder))).turn_format == "dialogue"
    assert find_model(make_config(model=str(folder), turn_format="plain")).turn_format == "plain"


def test_a_hub_name_is_found_in_the_local_cache_with_its_commit(make_config, tiny_gpt2, hub_cache):
    lay_out_as_hub(hub_cache, "microsoft/DialoGPT-small", tiny_gpt2)
    source = find_model(make_config(model="microsoft/DialoGPT-small"))
    assert (source.origin, source.revision, source.turn_format) == ("hub", COMMIT, "dialogue")
    assert (source.name, source.as_params()["model_revision"]) == ("microsoft/DialoGPT-small", COMMIT)


def test_a_cached_model_without_weights_does_not_count(make_config, tiny_gpt2, hub_cache, tmp_path):
    partial = tmp_path / "partial"
    shutil.copytree(tiny_gpt2, partial)
    (partial / "model.safetensors").unlink()
    lay_out_as_hub(hub_cache, "some/partial", partial)
    with pytest.raises(ModelNotLoadable, match="some/partial"):
        find_model(make_config(model="some/partial"))


def test_a_hub_name_that_is_nowhere_is_told_in_seconds(make_config, hub_cache):
    started = time.monotonic()
    with pytest.raises(ModelNotLoadable, match="'no-such/model' cannot be loaded"):
        find_model(make_config(model="no-such/model"))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder"])
def test_a_folder_that_does_not_exist(make_config, name):
    with pytest.raises(ModelNotLoadable, match="no model folder"):
        find_model(make_config(model=name))


def test_a_folder_that_is_no_model(make_config, tmp_path):
    with pytest.raises(ModelNotLoadable, match="no config.json"):
        find_model(make_config(model=str(tmp_path)))


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "resnet"}', "{}"])
def test_a_config_that_is_no_causal_language_model(make_config, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelNotLoadable, match=r"cannot be read|no causal language model"):
        find_model(make_config(model=str(tmp_path)))


def test_missing_tokenizer_or_weights(make_config, tiny_gpt2, tmp_path):
    (tmp_path / "config.json").write_text((tiny_gpt2 / "config.json").read_text())
    with pytest.raises(ModelNotLoadable, match="no tokenizer"):
        find_model(make_config(model=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text((tiny_gpt2 / "tokenizer.json").read_text())
    with pytest.raises(ModelNotLoadable, match="no weights"):
        find_model(make_config(model=str(tmp_path)))


def test_pickled_weights_are_stored_as_safetensors_once(make_config, tmp_path, tiny_gpt2, caplog):
    config = make_config(model=str(make_pickled(tmp_path / "pickled")))
    with caplog.at_level("INFO"):
        source = find_model(config)
        again = find_model(config)
    assert source.converted and source == again
    assert "weights-only loader" in caplog.text and caplog.text.count("weights-only loader") == 1
    from pathlib import Path

    assert not list(Path(source.path).glob("*.bin"))
    assert source.weights_sha256 == find_model(make_config(model=str(tiny_gpt2))).weights_sha256


class Evil:
    """What a hostile checkpoint does: unpickling it runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(make_config, tmp_path):
    folder = make_pickled(tmp_path / "evil")
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weights": Evil(str(tmp_path / "it-ran"))}, file)
    with pytest.raises(UnsafeWeights, match="refused by torch's weights-only loader"):
        find_model(make_config(model=str(folder)))
    assert not (tmp_path / "it-ran").exists()
    assert not list((tmp_path / "staging").glob("converted/*"))


def test_only_what_is_needed_is_packaged(tiny_gpt2, tmp_path):
    folder = tmp_path / "full"
    shutil.copytree(tiny_gpt2, folder)
    for name in ("pytorch_model.bin", "tf_model.h5", "training_args.bin", "README.md", "modeling_custom.py"):
        (folder / name).write_text("x")
    names = {path.name for path in needed_files(folder)}
    assert names == {path.name for path in tiny_gpt2.iterdir()}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
