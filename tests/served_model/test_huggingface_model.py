"""The served model on a real GPT-2 that was taught four answers: input, parameters, streaming, batches, turn format."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from tiny_model import make_gpt2, make_taught_gpt2

from served_model.huggingface_model import (
    DIALOGUE,
    MAX_BATCH,
    HuggingFaceModelWrapper,
    Sampling,
    TextModel,
    Turn,
    to_langchain_template,
    turns_from,
)

TEMPLATE = "Question: {{question}}\nAnswer:"
UNICODE = "こんにちは, naïve café 🙂👩‍👩‍👧 bye."
LESSONS = {
    "Say hello.": UNICODE,
    "What is overfitting?": "Overfitting is learning the data too closely.",
    "Count.": "one two three four five six seven eight nine ten",
    "Write two lines.": "first line\nsecond line",
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Folder of the taught GPT-2."""
    lessons = {TEMPLATE.replace("{{question}}", question): f" {answer}" for question, answer in LESSONS.items()}
    return make_taught_gpt2(tmp_path_factory.mktemp("taught"), lessons)


@pytest.fixture(scope="module")
def model(taught, tmp_path_factory):
    """The wrapper, loaded as MLflow loads it; called without MLflow's own checks."""
    return wrapped(taught, tmp_path_factory.mktemp("prompt"))


def wrapped(folder, tmp_path, template=TEMPLATE, turn_format="plain"):
    prompt = tmp_path / "prompt.json"
    prompt.write_text(json.dumps({"name": "p", "version": 1, "template": template, "turn_format": turn_format}))
    made = HuggingFaceModelWrapper()
    made.load_context(SimpleNamespace(artifacts={"model": str(folder), "prompt": str(prompt)}))
    return made


@pytest.fixture(scope="module")
def text_model(model):
    return model.text_model


def ask(model, question, **params):
    return model.predict(None, question, params)[0]


def stream(model, question, **params):
    """The streamed text and the last event."""
    events = list(model.predict_stream(None, question, params))
    return "".join(event["delta"] for event in events), events[-1]


# --- input ----------------------------------------------------------------------------------------

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


# --- the prompt -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question", ["{question}", "{{question}}", "{{ other }} {0!r} %s {", "<b>&amp;</b> \"quoted\" 'it'", "a\n\nb\\n$x"]
)
def test_a_question_reaches_the_prompt_as_written(question, text_model):
    assert to_langchain_template(TEMPLATE).format(question=question) == f"Question: {question}\nAnswer:"
    prompt = text_model.encode(to_langchain_template(TEMPLATE).format(question=question))
    assert text_model.tokenizer.decode(prompt.token_ids) == f"Question: {question}\nAnswer:"


def test_other_braces_of_a_template_are_text():
    template = 'Answer as {"text": "..."} or {x} to {{ question }}; {{a-b}} stays. {{question}}'
    assert (
        to_langchain_template(template).format(question="Q")
        == 'Answer as {"text": "..."} or {x} to Q; {{a-b}} stays. Q'
    )


@pytest.mark.parametrize("question", LESSONS)
def test_the_answer_is_the_text_after_the_prompt(model, question):
    answer = ask(model, question)
    assert answer["answer"] == LESSONS[question]
    assert answer["finish_reason"] == "stop"
    assert answer["completion_tokens"] == len(answer["token_ids"]) > 0
    assert answer["prompt_tokens"] == len(model.text_model.tokenizer(f"Question: {question}\nAnswer:")["input_ids"])
    assert 0 < answer["first_token_s"] <= answer["total_s"]
    assert answer["warnings"] == []


def test_an_answer_can_be_written_as_json(model):
    assert json.loads(json.dumps(ask(model, "Count.")))["answer"] == LESSONS["Count."]


# --- parameters -----------------------------------------------------------------------------------

BOUNDS = {
    "max_new_tokens": ([1, 1024], [0, -1, 1025]),
    "temperature": ([0.0, 5.0], [-0.1, 5.1, float("nan")]),
    "top_p": ([0.001, 1.0], [0.0, 1.01, float("nan")]),
    "top_k": ([0, 10**6], [-1]),
    "repetition_penalty": ([0.1, 10.0], [0.0, 10.5]),
    "seed": ([-1, 0, 2**63 - 1], [-2, 2**63]),
    "stop": ([[], ["a"] * 8], [[""], ["a"] * 9]),
    "timeout_s": ([0.001, 3600.0], [0.0, -1.0, 3601.0, float("inf")]),
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


def test_the_largest_values_are_usable(model):
    for params in ({"top_k": 10**6, "temperature": 5.0}, {"seed": 2**63 - 1, "temperature": 1.0}, {"top_p": 0.001}):
        assert ask(model, "Count.", max_new_tokens=3, **params)["completion_tokens"] <= 3


def test_temperature_0_is_greedy_whatever_else_is_asked(model):
    assert ask(model, "Count.", temperature=0.0, seed=3, top_k=5, top_p=0.5)["answer"] == LESSONS["Count."]


def test_a_seeded_draw_repeats_and_differs_between_seeds(model):
    def drawn(seed):
        return ask(model, "Count.", temperature=5.0, seed=seed, max_new_tokens=20)["token_ids"]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(-1) != drawn(-1)


def test_a_seeded_draw_leaves_the_callers_random_numbers_alone(model):
    import torch

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    ask(model, "Count.", temperature=1.0, seed=9, max_new_tokens=2)
    assert torch.equal(torch.rand(3), expected)


def test_top_k_1_draws_the_most_likely_token(model):
    assert ask(model, "Count.", temperature=2.0, top_k=1, seed=5)["answer"] == LESSONS["Count."]


def test_repetition_penalty_acts(model):
    assert ask(model, "Count.", repetition_penalty=10.0)["answer"] != LESSONS["Count."]


def test_max_new_tokens_ends_with_length(model):
    answer = ask(model, "Count.", max_new_tokens=3)
    assert (answer["completion_tokens"], answer["finish_reason"]) == (3, "length")
    assert LESSONS["Count."].startswith(answer["answer"])


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["three"], "one two"),
        (["o th"], "one tw"),  # begins and ends within tokens
        (["six", "four"], "one two three"),
        (["one"], ""),
        (["eleven"], LESSONS["Count."]),
        ([" "], ""),  # the answer begins with a space
    ],
)
def test_stop_strings_end_the_answer_before_them(model, stop, expected):
    answer = ask(model, "Count.", stop=stop)
    assert (answer["answer"], answer["finish_reason"]) == (expected, "stop")
    text, last = stream(model, "Count.", stop=stop)
    assert (text, last["answer"], last["finish_reason"]) == (expected, expected, "stop")


def test_a_stop_string_saves_the_tokens_after_it(model):
    whole, stopped = ask(model, "Count."), ask(model, "Count.", stop=["two"])
    assert stopped["completion_tokens"] < whole["completion_tokens"]


def test_stop_at_a_newline_and_at_an_emoji(model):
    assert ask(model, "Write two lines.", stop=["\n"])["answer"] == "first line"
    assert stream(model, "Say hello.", stop=["🙂"])[0] == UNICODE.partition("🙂")[0].strip()


def test_a_deadline_gives_the_partial_answer(model):
    answer = ask(model, "Count.", timeout_s=1e-6)
    assert answer["finish_reason"] == "timeout"
    assert answer["completion_tokens"] == 1
    assert LESSONS["Count."].startswith(answer["answer"])
    text, last = stream(model, "Count.", timeout_s=1e-6)
    assert (text, last["finish_reason"]) == (answer["answer"], "timeout")


def test_the_deadline_is_for_the_call_not_for_each_batch_of_it(model, monkeypatch):
    network = model.text_model.engine.model
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *args, **kwargs: time.sleep(0.02) or forward(*args, **kwargs))
    answers = model.predict(None, ["Count."] * (MAX_BATCH + 1), {"timeout_s": 0.1})
    assert {answer["finish_reason"] for answer in answers} == {"timeout"}
    assert answers[-1]["completion_tokens"] == 1  # its batch began when the time was over


# --- long prompts ---------------------------------------------------------------------------------


def test_a_long_prompt_is_cut_at_the_left_with_a_warning(text_model):
    ids = text_model.tokenizer("a " * 300)["input_ids"]
    prompt = text_model.encode("a " * 300, max_new_tokens=50)
    assert prompt.token_ids == ids[-206:]
    assert prompt.warnings == (f"The prompt has {len(ids)} tokens; the first {len(ids) - 206} were cut off.",)


def test_a_long_question_is_answered_after_its_end(model):
    answer = ask(model, "word " * 400 + "\nQuestion: Count.", max_new_tokens=60)
    assert answer["prompt_tokens"] == 256 - 60
    assert "were cut off" in answer["warnings"][0]


@pytest.mark.parametrize("max_new_tokens", [255, 256, 1024])
def test_more_new_tokens_than_the_window_leave_the_prompt_whole(model, max_new_tokens):
    answer = ask(model, "Count.", max_new_tokens=max_new_tokens)
    assert (answer["answer"], answer["warnings"]) == (LESSONS["Count."], [])


def test_an_answer_may_fill_the_window_and_no_more(tiny_gpt2):
    model = TextModel.load(tiny_gpt2)
    prompts = [model.encode(text, max_new_tokens=1024) for text in ("a", "a longer prompt", "word " * 500)]
    together = model.complete(prompts, Sampling(max_new_tokens=1024))
    assert [item.prompt_tokens + item.completion_tokens for item in together] == [256, 256, 256]
    assert {item.finish_reason for item in together} == {"length"}
    assert [model.complete([prompt], Sampling(max_new_tokens=1024))[0].token_ids for prompt in prompts] == [
        item.token_ids for item in together
    ]


def test_characters_that_the_tokenizer_was_never_shown(model):
    for question in ("Что такое MLflow? 🤖", "\x00\x01", "𝔘𝔫𝔦", "a\u0301"):
        assert ask(model, question, max_new_tokens=4)["completion_tokens"] <= 4


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params", [{}, {"repetition_penalty": 0.5}, {"repetition_penalty": 8.0}, {"stop": ["two"]}, {"max_new_tokens": 5}]
)
def test_answers_in_a_batch_equal_answers_alone(model, params):
    questions = [*LESSONS, "What is overfitting in the machine learning life cycle, asked at some length?", "x"]
    together = model.predict(None, questions, params)
    assert [a["token_ids"] for a in together] == [ask(model, question, **params)["token_ids"] for question in questions]


def test_order_is_kept_over_more_rows_than_a_batch_holds(model):
    questions = [list(LESSONS)[i * 7 % len(LESSONS)] for i in range(2 * MAX_BATCH + 3)]
    answers = model.predict(None, pd.DataFrame({"question": questions}))
    assert [answer["answer"] for answer in answers] == [LESSONS[question] for question in questions]


def test_several_threads_at_once(model):
    questions = list(LESSONS) * 6

    def either(i):
        if i % 3 == 0:
            return stream(model, questions[i])[0]
        return ask(model, questions[i], seed=i, temperature=0.0)["answer"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(either, range(len(questions)))) == [LESSONS[question] for question in questions]


def test_seeded_draws_on_several_threads_do_not_disturb_each_other(model):
    def drawn(seed):
        return ask(model, "Count.", temperature=5.0, seed=seed, max_new_tokens=12)["token_ids"]

    alone = [drawn(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(drawn, range(6))) == alone


# --- streaming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", LESSONS)
def test_streamed_text_equals_the_predicted_text(model, question):
    text, last = stream(model, question)
    predicted = ask(model, question)
    assert text == last["answer"] == predicted["answer"]
    assert last["delta"] == ""
    assert {name for name in predicted} | {"delta"} == set(last)


def test_a_stream_has_pieces_and_no_broken_character(model):
    deltas = [event["delta"] for event in model.predict_stream(None, "Say hello.")]
    assert len(deltas) > 5
    assert not any("\ufffd" in delta for delta in deltas)
    assert any("🙂" in delta for delta in deltas)


def test_sampled_text_streams_as_it_is_predicted(model):
    for seed in range(8):  # random bytes: broken characters, spaces at the ends, newlines
        params = {"temperature": 5.0, "seed": seed, "max_new_tokens": 40}
        assert stream(model, "Say hello.", **params)[0] == ask(model, "Say hello.", **params)["answer"]


def test_a_stream_answers_one_question(model):
    with pytest.raises(MlflowException, match="A stream answers one question; the input has 2"):
        next(model.predict_stream(None, ["a", "b"]))


def counted(network, monkeypatch) -> list[None]:
    """Grows by one with every step of the network."""
    steps, forward = [], network.forward
    monkeypatch.setattr(network, "forward", lambda *args, **kwargs: steps.append(None) or forward(*args, **kwargs))
    return steps


def test_closing_a_stream_stops_the_generation(tiny_gpt2, tmp_path, monkeypatch):
    model = wrapped(tiny_gpt2, tmp_path)  # random weights: goes on to the end of the window
    before = set(threading.enumerate())
    events = model.predict_stream(None, "What is MLflow?", {"max_new_tokens": 240})
    next(events)
    (worker,) = set(threading.enumerate()) - before
    steps = counted(model.text_model.engine.model, monkeypatch)
    events.close()
    worker.join(timeout=5)
    assert not worker.is_alive()
    assert len(steps) <= 3  # of the 200 and more that the answer would have taken


def test_an_error_of_the_engine_reaches_the_reader_of_a_stream(text_model, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(text_model.engine, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(text_model.stream(text_model.encode("a"), Sampling()))


# --- turns and history ----------------------------------------------------------------------------


def test_dialogue_turns_are_joined_by_end_of_text(taught):
    model = TextModel.load(taught, DIALOGUE)
    ids = model.tokenizer("Hi<|endoftext|>Hello!<|endoftext|>What is MLflow?<|endoftext|>")["input_ids"]
    assert model.encode("What is MLflow?", ["Hi", "Hello!"]).token_ids == ids
    assert model.encode("Hi").token_ids == [*model.tokenizer("Hi")["input_ids"], 0]


def test_a_history_is_given_as_turns_and_a_first_question_through_the_template(model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        model.text_model,
        "complete",
        lambda prompts, sampling: seen.extend(model.text_model.tokenizer.decode(p.token_ids) for p in prompts) or [],
    )
    model.predict(None, [{"question": "And now?", "history": ["Hi", "Hello!"]}, "Hi"])
    end = "<|endoftext|>"
    assert seen == [f"Hi{end}Hello!{end}And now?{end}", "Question: Hi\nAnswer:"]


def test_a_plain_answer_follows_a_space_and_a_dialogue_answer_does_not(taught):
    plain, dialogue = TextModel.load(taught), TextModel.load(taught, DIALOGUE)
    with_space, without = plain.tokenizer(" Yes")["input_ids"], plain.tokenizer("Yes")["input_ids"]
    assert plain.encode_answer("Yes", "Answer:") == with_space
    assert plain.encode_answer("Yes", "Answer:\n") == plain.encode_answer("Yes", "Q", ["a", "b"]) == without
    assert dialogue.encode_answer("Yes", "Hi") == without


def test_another_turn_format_is_refused(taught):
    with pytest.raises(MlflowException, match="turn format is 'chat'"):
        TextModel.load(taught, "chat")


# --- log-likelihoods ------------------------------------------------------------------------------


def test_log_likelihoods_equal_a_plain_computation(text_model):
    import torch

    pairs = [("Question: Count.\nAnswer:", " one two"), ("A much longer prompt than that:", " yes"), ("x", " y z")]
    prompts = [text_model.encode(prompt) for prompt, _ in pairs]
    answers = [text_model.tokenizer(answer)["input_ids"] for _, answer in pairs]
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = [*prompt.token_ids, *answer]
        with torch.inference_mode():
            log_p = text_model.engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        start = len(prompt.token_ids)
        expected.append(sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids))) / len(answer))
    assert text_model.log_likelihoods(prompts, answers) == pytest.approx(expected, abs=1e-5)
    assert all(value < 0 for value in expected)


def test_log_likelihoods_keep_the_order_over_batches(text_model):
    prompt = text_model.encode("Question: Count.\nAnswer:")
    answers = [text_model.tokenizer(" one" * (1 + i * 5 % 7))["input_ids"] for i in range(MAX_BATCH + 5)]
    alone = [text_model.log_likelihoods([prompt], [answer])[0] for answer in answers]
    assert text_model.log_likelihoods([prompt] * len(answers), answers) == pytest.approx(alone, abs=1e-5)


def test_an_answer_too_long_for_the_window_is_cut_at_its_end(text_model):
    prompt, answer = text_model.encode("x"), [5] * 400
    (cut,) = text_model.log_likelihoods([prompt], [answer])
    assert cut == pytest.approx(
        text_model.log_likelihoods([prompt], [answer[: 256 - len(prompt.token_ids)]])[0], abs=1e-5
    )


# --- checkpoints with their own habits ------------------------------------------------------------


def test_a_checkpoints_own_generation_settings_do_not_leak_in(taught, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(taught, folder)
    habits = {"eos_token_id": 0, "num_beams": 3, "do_sample": True, "no_repeat_ngram_size": 1, "min_new_tokens": 60}
    (folder / "generation_config.json").write_text(json.dumps(habits))
    assert ask(wrapped(folder, tmp_path), "Count.")["answer"] == LESSONS["Count."]


def test_a_checkpoint_with_several_end_tokens_and_one_without(taught, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(taught, folder)
    start_of_two = TextModel.load(taught).tokenizer(" two")["input_ids"][0]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, start_of_two]}))
    assert ask(wrapped(folder, tmp_path), "Count.")["answer"] == "one"
    (folder / "generation_config.json").unlink()
    settings = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(settings))
    assert ask(wrapped(folder, tmp_path), "Count.", max_new_tokens=4)["finish_reason"] == "length"


def test_pickled_weights_are_not_read(tmp_path):
    from tiny_model import make_pickled

    with pytest.raises(OSError, match="safetensors"):
        TextModel.load(make_pickled(tmp_path / "pickled"))


def test_the_threads_of_the_environment_are_used(taught, tmp_path, monkeypatch):
    import torch

    before = torch.get_num_threads()
    monkeypatch.setenv("THREADS", "1")
    try:
        wrapped(taught, tmp_path)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_golden_answers_of_the_package_are_kept_for_a_server(taught, model, tmp_path):
    golden = [{"question": "Count.", "token_ids": [1, 2]}]
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    (tmp_path / "prompt.json").write_text(json.dumps(model.prompt))
    made = HuggingFaceModelWrapper()
    files = {"model": str(taught), "prompt": str(tmp_path / "prompt.json"), "golden": str(tmp_path / "golden.json")}
    made.load_context(SimpleNamespace(artifacts=files))
    assert (made.golden, model.golden) == (golden, [])


def test_the_smallest_window_still_answers(tmp_path):
    model = TextModel.load(make_gpt2(tmp_path / "short", positions=8))
    (answer,) = model.complete([model.encode("What is MLflow, and what is it for?")], Sampling())
    assert answer.prompt_tokens + answer.completion_tokens <= 8
    assert answer.warnings
