"""A chain as LangChain's documentation writes it, over our engine: LangChain's own class, and ours in its place."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from conftest import REPO
from langchain_core.prompts import PromptTemplate
from langchain_huggingface import HuggingFacePipeline
from tiny_model import LESSONS

from genai_lifecycle.errors import ConfigError, ModelNotLoadable
from genai_lifecycle.models.engine_pipeline import EngineLLM, EnginePipeline
from genai_lifecycle.models.generation import greedy_answers, load_text_model

QUESTIONS = ["What is overfitting?", "Count.", "Write two lines."]
# The template of the documentation, with the words that the tiny model was taught.
PROMPT = PromptTemplate.from_template("Question: {question}\nAnswer:")


def asked(question: str) -> dict[str, str]:
    return {"question": question}


def whole(question: str) -> str:
    """What transformers' pipeline returns: the prompt and what follows it."""
    return f"Question: {question}\nAnswer: {LESSONS[question]}"


@pytest.fixture(scope="module")
def text_model(lessons_gpt2):
    model = load_text_model(str(lessons_gpt2), "plain")
    yield model
    model.close()


@pytest.fixture
def pipe(text_model):
    return EnginePipeline(text_model, "tiny", max_new_tokens=48)


@pytest.fixture(params=[HuggingFacePipeline, EngineLLM])
def hf(request, pipe):
    return request.param(pipeline=pipe)


# --- either class, line by line as documented ---


def test_a_chain_answers(hf):
    chain = PROMPT | hf
    assert chain.invoke(asked("Count.")) == whole("Count.")


def test_a_chain_without_the_prompt(hf):
    chain = PROMPT | hf.bind(skip_prompt=True)
    assert chain.invoke(asked("Count.")) == f" {LESSONS['Count.']}"


def test_a_batch_in_order(hf):
    chain = PROMPT | hf
    assert chain.batch([asked(question) for question in QUESTIONS]) == [whole(question) for question in QUESTIONS]


def test_a_stream_comes_in_pieces_without_the_prompt(hf):
    pieces = list((PROMPT | hf).stream(asked("Count.")))
    assert "".join(pieces) == f" {LESSONS['Count.']}" and len([piece for piece in pieces if piece]) > 1


def test_settings_of_one_call(hf):
    chain = PROMPT | hf.bind(pipeline_kwargs={"max_new_tokens": 3})
    assert len(chain.invoke(asked("Count."))) < len(whole("Count."))


def test_a_stop_text_in_the_settings(hf):
    chain = PROMPT | hf.bind(pipeline_kwargs={"stop_strings": [" three"]})
    assert chain.invoke(asked("Count.")) == "Question: Count.\nAnswer: one two"


def test_the_answer_alone(text_model):
    hf = HuggingFacePipeline(pipeline=EnginePipeline(text_model, max_new_tokens=48, return_full_text=False))
    assert (PROMPT | hf).invoke(asked("Count.")) == LESSONS["Count."]


def test_the_same_text_as_from_transformers(lessons_gpt2, pipe):
    """The pipeline that LangChain's documentation makes, over the same checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(lessons_gpt2)
    theirs = pipeline(
        "text-generation", model=AutoModelForCausalLM.from_pretrained(lessons_gpt2), tokenizer=tokenizer,
        max_new_tokens=48, do_sample=False, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    texts = [PROMPT.format(question=question) for question in QUESTIONS]
    assert pipe(texts) == theirs(texts)
    assert pipe(texts[0]) == theirs(texts[0])


# --- what LangChain's own class leaves out ---


def test_a_stop_text_holds_in_every_call(pipe):
    chain = PROMPT | EngineLLM(pipeline=pipe).bind(stop=[" three"], skip_prompt=True)
    assert chain.invoke(asked("Count.")) == " one two"
    assert chain.batch([asked("Count.")] * 2) == [" one two"] * 2
    assert "".join(chain.stream(asked("Count."))) == " one two"


def test_langchains_own_class_says_that_it_cannot_stop_a_stream(pipe):
    chain = PROMPT | HuggingFacePipeline(pipeline=pipe).bind(stop=[" three"])
    with pytest.raises(ConfigError, match="EngineLLM in its place"):
        list(chain.stream(asked("Count.")))


def test_settings_of_the_constructor_hold(pipe, text_model):
    llm = EngineLLM(pipeline=pipe, pipeline_kwargs={"max_new_tokens": 3})
    (alone,) = greedy_answers(text_model, "{{question}}", ["Count."], 3)
    info = llm.generate(["Count."]).generations[0][0].generation_info
    assert (info["token_ids"], info["completion_tokens"], info["finish_reason"]) == (alone.token_ids, 3, "length")
    last = list(llm._stream("Count."))[-1]
    assert last.generation_info["token_ids"] == alone.token_ids


def test_one_is_made_from_a_models_name(lessons_gpt2):
    llm = EngineLLM.from_model_id(
        model_id=str(lessons_gpt2), task="text-generation", pipeline_kwargs={"max_new_tokens": 48}, batch_size=2
    )
    assert (PROMPT | llm).invoke(asked("Count.")) == whole("Count.")
    assert llm.model_id == str(lessons_gpt2)
    with pytest.raises(ModelNotLoadable):
        EngineLLM.from_model_id("./nowhere")


@pytest.mark.parametrize("more", [{"device": 0}, {"task": "summarization"}, {"model_kwargs": {"x": 1}}])
def test_what_the_engine_does_not_do_is_refused(more):
    with pytest.raises(ConfigError, match="is not for this engine"):
        EngineLLM.from_model_id("gpt2", **more)


@pytest.mark.parametrize("settings", [{"num_beams": 4}, {"stopping_criteria": []}])
def test_a_setting_that_it_does_not_know_is_named(text_model, pipe, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        pipe("Count.", **settings)
    with pytest.raises(ConfigError, match="Use do_sample, max_new_tokens"):
        EnginePipeline(text_model, **settings)


def test_a_temperature_draws_and_no_sample_does_not(pipe):
    question = "Say something new"
    drawn = {pipe(question, temperature=5.0, seed=seed)[0]["generated_text"] for seed in range(4)}
    greedy = {pipe(question, temperature=5.0, seed=seed, do_sample=False)[0]["generated_text"] for seed in range(4)}
    assert len(drawn) > 1 and len(greedy) == 1


def test_an_error_while_streaming_ends_the_stream(pipe, monkeypatch):
    """LangChain's class asks in a thread and waits for the streamer; transformers' pipeline lets it wait a minute."""
    errors = []
    monkeypatch.setattr("threading.excepthook", lambda hook: errors.append(str(hook.exc_value)))
    monkeypatch.setattr(pipe.text_model, "stream", break_off)
    assert "".join(HuggingFacePipeline(pipeline=pipe).stream("Count.")) == " one"
    assert errors == ["lost"]


def break_off(*_):
    yield {"delta": " one"}
    raise RuntimeError("lost")


def test_it_is_handed_out_for_notebooks():
    spec = importlib.util.spec_from_file_location("e2e_mlflow", REPO / "e2e_mlflow.py")
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)
    assert entry.EnginePipeline is EnginePipeline and entry.EngineLLM is EngineLLM


def test_the_import_brings_nothing_heavy_along():
    heavy = {"torchvision", "sentence_transformers", "transformers", "torch", "optimum", "langgraph"}
    script = f"import sys, genai_lifecycle.models.generation; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
