"""A checkpoint as a stateful IR: transformers' tokens, saved in the precision it has."""

from __future__ import annotations

import io
import logging
import random
import threading
import warnings
from contextlib import contextmanager, redirect_stdout

import pytest
from tiny_model import make_ir, open_engine, transformers_greedy

from genai_lifecycle.models.conversion import ir
from genai_lifecycle.models.generation import answers_together, load_converted
from served_model.text_generation.engine import Job
from served_model.text_generation.sampling import Sampling


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What is printed and warned of while a model is converted."""
    return []


@contextmanager
def listening(said):
    with redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    said += [printed.getvalue(), *(str(item.message) for item in warned)]


@pytest.fixture(scope="module")
def converted(tiny_gpt2, said):
    with listening(said):
        return ir.convert(tiny_gpt2)


@pytest.fixture(scope="module")
def saved(converted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ir") / "fp32"
    ir.save(converted, folder)
    return folder


@pytest.fixture(scope="module")
def small(converted, said, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ir") / "int8"
    with listening(said):
        compressed = ir.int8_weights(converted.clone())
    ir.save(compressed, folder)
    return folder


def weights_of(folder) -> int:
    """Number of weights of a checkpoint; tied ones count once."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())


def generated(engine, prompts, new_tokens) -> list[list[int]]:
    news = threading.Event()
    jobs = [Job(ids, Sampling(max_new_tokens=new_tokens), news.set) for ids in prompts]
    for job in jobs:
        engine.submit(job)
    while not all(job.is_over for job in jobs):
        assert news.wait(20)
        news.clear()
    return [job.token_ids for job in jobs]


def random_prompts(count=12, vocabulary=250):
    draw = random.Random(1)
    return [[draw.randrange(1, vocabulary) for _ in range(1 + 5 * i)] for i in range(count)]


def test_only_gpt2_is_covered():
    assert ir.is_covered("gpt2")
    assert not any(ir.is_covered(name) for name in ("llama", "gpt_neo", "", None))


def test_the_pipelines_inputs_and_outputs(converted):
    assert {port.get_any_name() for port in converted.inputs} == {
        "input_ids", "attention_mask", "position_ids", "beam_idx",
    }  # fmt: skip
    assert [port.get_any_name() for port in converted.outputs] == ["logits"]
    assert len(converted.get_sinks()) == 2  # keys and values of the one layer are its state
    assert converted.input("input_ids").get_partial_shape().to_string() == "[?,?]"


def test_tokens_are_those_of_transformers(saved, tiny_gpt2):
    prompts = random_prompts()
    engine = open_engine("openvino", tiny_gpt2, saved)
    try:
        assert generated(engine, prompts, 20) == transformers_greedy(tiny_gpt2, prompts, 20)
    finally:
        engine.close()


def test_another_shape_of_gpt2(tmp_path):
    """Every switch that changes the graph; three layers and heads of four, sizes of the traced example too."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    shape = {"n_layer": 3, "n_head": 3, "n_embd": 12, "n_positions": 64, "vocab_size": 250, "n_inner": 24}
    switches = {"activation_function": "relu", "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}
    config = GPT2Config(bos_token_id=0, eos_token_id=0, initializer_range=0.3, **shape, **switches)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    prompts = random_prompts(8)
    engine = open_engine("openvino", tmp_path / "model", make_ir(tmp_path / "model", tmp_path / "ir"))
    try:
        assert generated(engine, prompts, 12) == transformers_greedy(tmp_path / "model", prompts, 12)
    finally:
        engine.close()


def test_fp32_takes_four_bytes_a_weight(saved, tiny_gpt2):
    size = (saved / "openvino_model.bin").stat().st_size
    assert 3.9 < size / weights_of(tiny_gpt2) < 4.1


def test_int8_takes_one_byte_a_weight(small, tiny_gpt2):
    size = (small / "openvino_model.bin").stat().st_size
    assert 1 < size / weights_of(tiny_gpt2) < 1.5  # scales, zero points and position table beside the weights


def test_int8_answers_nearly_like_fp32(saved, small, tiny_gpt2):
    given = []
    for folder, precision in ((saved, "fp32"), (small, "int8")):
        model = load_converted(tiny_gpt2, folder, "plain", precision)
        given.append(model.log_likelihoods([model.encode("What is MLflow?")], [[5, 6, 7, 8]])[0])
        assert answers_together(model, "{{question}}", ["What is MLflow?"], 4)[0].completion_tokens <= 4
        model.close()
    assert given[0] == pytest.approx(given[1], abs=0.05)
    assert given[0] != given[1]


def test_saving_replaces_what_was_there(converted, tmp_path):
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / "old.bin").write_text("old")
    ir.save(converted, tmp_path / "ir")
    assert sorted(path.name for path in (tmp_path / "ir").iterdir()) == ["openvino_model.bin", "openvino_model.xml"]


def test_conversion_says_nothing(converted, small, said):
    assert [text for text in said if text and ("trac" in text.lower() or "nncf" in text.lower())] == []
    assert said.count("") >= 2
    assert logging.getLogger("nncf").level != logging.ERROR  # as it was before


def test_pickled_weights_are_not_converted(tmp_path):
    from tiny_model import make_pickled

    with pytest.raises(OSError, match="safetensors"):
        ir.convert(make_pickled(tmp_path / "pickled"))
