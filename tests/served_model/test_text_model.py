"""Text in, text out, on both engines: each promise and each sampling parameter means the same on either."""

from __future__ import annotations

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
from mlflow.exceptions import MlflowException
from tiny_model import LESSONS, TEMPLATE, UNICODE, make_gpt2, open_engine, rendered, transformers_greedy

from served_model.text_generation.checkpoint import load_tokenizer
from served_model.text_generation.prompt import to_langchain_template
from served_model.text_generation.sampling import Sampling
from served_model.text_generation.text_model import DIALOGUE, TextModel

QUESTIONS = [
    *LESSONS,
    "What is overfitting in the machine learning life cycle, asked at some length?",
    "x",
    "Count. " * 12,
]


def prompts_of(model, questions, max_new_tokens=96):
    return [model.encode(rendered(question), (), max_new_tokens) for question in questions]


def ask(model, question, **params):
    (answer,) = model.complete(prompts_of(model, [question], params.get("max_new_tokens", 96)), Sampling(**params))
    return answer


def stream(model, question, **params):
    """The streamed text and the last event."""
    (prompt,) = prompts_of(model, [question])
    events = list(model.stream(prompt, Sampling(**params)))
    return "".join(event["delta"] for event in events), events[-1]


@pytest.fixture(autouse=True)
def settled(endless, tireless, waiting):
    """What an earlier test left running on torch would disturb the seeded draws (test_torch_engine.py)."""
    waiting.until(lambda: not endless.engine.load().running and not tireless.engine.load().running)


def ids_of(answers):
    return [answer.token_ids for answer in answers]


# --- greedy answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("question", LESSONS)
def test_the_answer_is_the_text_after_the_prompt(text_model, question):
    answer = ask(text_model, question)
    assert answer.answer == LESSONS[question]
    assert answer.finish_reason == "stop"
    assert answer.token_ids == text_model.tokenizer.encode(" " + LESSONS[question]).ids
    assert answer.completion_tokens == len(answer.token_ids) > 0
    assert answer.prompt_tokens == len(text_model.tokenizer.encode(rendered(question)).ids)
    assert 0 < answer.first_token_s <= answer.total_s
    assert answer.warnings == []


def test_greedy_tokens_are_those_of_transformers(text_model, taught):
    prompts = prompts_of(text_model, QUESTIONS)
    expected = transformers_greedy(taught, [prompt.token_ids for prompt in prompts], 96)
    assert ids_of(text_model.complete(prompts, Sampling())) == expected
    assert [ids_of(text_model.complete([prompt], Sampling()))[0] for prompt in prompts] == expected


def test_no_prompts_no_answers(text_model):
    assert text_model.complete([], Sampling()) == []


# --- sampling parameters --------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 40, 150])
@pytest.mark.parametrize("penalty", [0.5, 1.3, 2.0])
def test_repetition_penalty_is_that_of_transformers(endless, tiny_gpt2, penalty, length):
    """Computed by hand after transformers' definition: prompt and answer count, each token once."""
    prompt = [1 + (7 * i + length) % 120 for i in range(length)]
    expected = penalised_greedy(tiny_gpt2, tuple(prompt), penalty, 24)
    alone, crowd = endless.engine, [prompt, [5, 6], prompt[:1] * 30, list(range(1, 90)), prompt]
    sampling = Sampling(repetition_penalty=penalty, max_new_tokens=24)
    assert generated(alone, [prompt], sampling) == [expected]
    together = generated(alone, crowd, sampling)
    assert [together[0], together[-1]] == [expected, expected]


@cache
def penalised_greedy(folder, prompt, penalty, new_tokens):
    import torch
    from transformers import AutoModelForCausalLM

    model, ids = AutoModelForCausalLM.from_pretrained(folder).eval(), list(prompt)
    for _ in range(new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        for token in set(ids):
            logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
        token = int(logits.argmax())
        if token == 0:
            break
        ids.append(token)
    return ids[len(prompt) :]


def generated(engine, prompts, sampling):
    """Token ids straight from the engine."""
    import threading

    from served_model.text_generation.engine import Job

    news = threading.Event()
    jobs = [Job(prompt, sampling, news.set) for prompt in prompts]
    for job in jobs:
        engine.submit(job)
    while not all(job.is_over for job in jobs):
        assert news.wait(20), "no answer"
        news.clear()
    for job in jobs:
        job.check_alive()
    return [job.token_ids for job in jobs]


def test_repetition_penalty_acts(text_model):
    assert ask(text_model, "Count.", repetition_penalty=10.0).answer != LESSONS["Count."]


@pytest.mark.parametrize("question", QUESTIONS)
def test_top_k_1_is_greedy_at_any_temperature(text_model, question):
    drawn = ask(text_model, question, temperature=2.0, top_k=1, seed=5, max_new_tokens=40)
    assert drawn.token_ids == ask(text_model, question, max_new_tokens=40).token_ids


def test_a_tiny_top_p_draws_the_most_likely_token(text_model):
    assert ask(text_model, "Count.", temperature=1.0, top_p=0.001, seed=5).answer == LESSONS["Count."]


def test_a_low_temperature_draws_the_most_likely_token(text_model):
    assert ask(text_model, "Count.", temperature=0.01, seed=5).answer == LESSONS["Count."]


def test_temperature_0_is_greedy_whatever_else_is_asked(text_model):
    assert ask(text_model, "Count.", temperature=0.0, seed=3, top_k=5, top_p=0.5).answer == LESSONS["Count."]


@pytest.mark.parametrize(
    ("params", "most"), [({"top_k": 2}, 2), ({"top_p": 0.02}, 12), ({"top_k": 5, "top_p": 0.999}, 5)]
)
def test_what_is_drawn_comes_from_the_likeliest_tokens(endless, tiny_gpt2, params, most):
    """40 draws of one token: all among the likeliest, and not always the same."""
    import torch
    from transformers import AutoModelForCausalLM

    prompt = endless.encode("What is MLflow?").token_ids
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(tiny_gpt2)(torch.tensor([prompt])).logits[0, -1]
    allowed = set(logits.topk(most).indices.tolist())
    sampling = Sampling(temperature=1.0, max_new_tokens=1, **params)
    drawn = {tuple(ids) for ids in generated(endless.engine, [prompt] * 40, sampling)}
    assert {ids[0] for ids in drawn if ids} <= allowed
    assert len(drawn) > 1


def test_a_higher_temperature_draws_more_kinds_of_tokens(endless):
    def kinds(temperature):
        prompt = endless.encode("What is MLflow?").token_ids
        sampling = Sampling(temperature=temperature, max_new_tokens=1)
        return len({tuple(ids) for ids in generated(endless.engine, [prompt] * 60, sampling)})

    assert kinds(0.02) < kinds(5.0)


def test_a_seeded_draw_repeats_and_differs_between_seeds(text_model):
    def drawn(seed):
        return ask(text_model, "Count.", temperature=5.0, seed=seed, max_new_tokens=20).token_ids

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(-1) != drawn(-1)


def test_seeded_draws_in_a_crowd_are_those_alone(text_model):
    def drawn(seed):
        return ask(text_model, "Count.", temperature=5.0, seed=seed, max_new_tokens=20).token_ids

    alone = [drawn(seed) for seed in range(6)]
    with ThreadPoolExecutor(9) as pool:
        others = [pool.submit(ask, text_model, "x", temperature=2.0, max_new_tokens=60) for _ in range(3)]
        assert list(pool.map(drawn, range(6))) == alone
        assert {other.result().finish_reason for other in others} <= {"stop", "length"}


def test_unseeded_draws_of_one_call_differ(text_model):
    prompts = prompts_of(text_model, ["Count."] * 4)
    answers = text_model.complete(prompts, Sampling(temperature=5.0, max_new_tokens=20))
    assert len({tuple(answer.token_ids) for answer in answers}) == 4


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 10**6, "temperature": 5.0},
        {"top_k": 1_000_000, "temperature": 5.0},
        {"seed": 2**63 - 1, "temperature": 1.0},
        {"top_p": 0.001, "temperature": 1.0},
        {"repetition_penalty": 0.1},
        {"max_new_tokens": 1},
    ],
    ids=str,
)
def test_the_ends_of_the_ranges_are_usable(text_model, params):
    params = {"max_new_tokens": 3} | params
    assert 1 <= ask(text_model, "Count.", **params).completion_tokens <= 3


ABSURD = {"temperature 1e-40": {"temperature": 1e-40}, "temperature 5e-324": {"temperature": 5e-324}}
ABSURD["top_p 1e-300"] = {"temperature": 1.0, "top_p": 1e-300}
REFUSED_LATE = {
    ("torch", "temperature 1e-40"),
    ("torch", "temperature 5e-324"),
    ("openvino", "temperature 5e-324"),
    ("openvino", "top_p 1e-300"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_value_is_refused_in_a_sentence_or_answered(text_model, engine_name, name, request):
    try:
        assert ask(text_model, "Count.", seed=1, max_new_tokens=5, **ABSURD[name]).completion_tokens <= 5
    except MlflowException as refused:
        assert refused.error_code == "INVALID_PARAMETER_VALUE"


def test_max_new_tokens_ends_with_length(text_model):
    answer = ask(text_model, "Count.", max_new_tokens=3)
    assert (answer.completion_tokens, answer.finish_reason) == (3, "length")
    assert LESSONS["Count."].startswith(answer.answer)


def test_an_answer_that_just_fits_is_not_called_cut(text_model):
    whole = ask(text_model, "Count.")
    assert ask(text_model, "Count.", max_new_tokens=whole.completion_tokens + 1).finish_reason == "stop"
    assert ask(text_model, "Count.", max_new_tokens=whole.completion_tokens).finish_reason == "length"


# --- stop strings ---------------------------------------------------------------------------------


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
def test_stop_strings_end_the_answer_before_them(text_model, stop, expected):
    answer = ask(text_model, "Count.", stop=stop)
    assert (answer.answer, answer.finish_reason) == (expected, "stop")
    text, last = stream(text_model, "Count.", stop=stop)
    assert (text, last["answer"], last["finish_reason"]) == (expected, expected, "stop")
    assert answer.token_ids == last["token_ids"]


def test_a_stop_string_saves_the_tokens_after_it(text_model):
    whole, stopped = ask(text_model, "Count."), ask(text_model, "Count.", stop=["two"])
    assert stopped.completion_tokens < whole.completion_tokens
    assert stopped.token_ids == whole.token_ids[: stopped.completion_tokens]


def test_stop_at_a_newline_and_at_an_emoji(text_model):
    assert ask(text_model, "Write two lines.", stop=["\n"]).answer == "first line"
    assert stream(text_model, "Say hello.", stop=["🙂"])[0] == UNICODE.partition("🙂")[0].strip()


def test_a_stop_string_ends_the_work(endless, waiting):
    before = endless.engine.load().cancelled
    first = ask(endless, "x", max_new_tokens=200)
    answer = ask(endless, "x", max_new_tokens=200, stop=[first.answer[:2]])
    assert answer.completion_tokens < 20
    waiting.until(lambda: not endless.engine.load().running, 2)
    assert endless.engine.load().cancelled > before


def test_a_stopped_answer_is_cancelled_once(text_model):
    cancelled = []

    class Unhurried:
        limits = text_model.engine.limits

        def submit(self, job):
            job.when_cancelled(lambda: cancelled.append(job))
            job.extend(text_model.tokenizer.encode("one two").ids)

        def cancel(self, jobs):
            for job in jobs:
                job.cancel()

    model = TextModel(text_model.tokenizer, Unhurried(), "plain")
    (answer,) = model.complete([model.encode("x")], Sampling(stop=("two",)))
    assert (answer.answer, len(cancelled)) == ("one", 1)


# --- time -----------------------------------------------------------------------------------------


def test_a_deadline_gives_the_partial_answer(endless):
    whole = ask(endless, "x", max_new_tokens=200)
    answer, timeout_s = whole, whole.total_s
    while answer.finish_reason != "timeout":  # the first answer may have been slow
        timeout_s /= 1.5
        answer = ask(endless, "x", max_new_tokens=200, timeout_s=timeout_s)
    assert 0 < answer.completion_tokens < whole.completion_tokens
    assert answer.token_ids == whole.token_ids[: answer.completion_tokens]
    assert whole.answer.startswith(answer.answer.rstrip("\ufffd"))
    assert timeout_s <= answer.total_s < whole.total_s


def test_a_deadline_that_is_over_at_once(text_model):
    answer = ask(text_model, "Count.", timeout_s=1e-6)
    assert answer.finish_reason == "timeout"
    assert answer.completion_tokens <= 1
    text, last = stream(text_model, "Count.", timeout_s=1e-6)
    assert last["finish_reason"] == "timeout"
    assert LESSONS["Count."].startswith(text)


def test_the_deadline_is_for_the_call_not_for_each_batch_of_it(endless):
    prompts = prompts_of(endless, ["x"] * 100)
    started = time.monotonic()
    answers = endless.complete(prompts, Sampling(timeout_s=0.03, max_new_tokens=230))
    assert {answer.finish_reason for answer in answers} == {"timeout"}
    assert time.monotonic() - started < 1
    assert min(answer.completion_tokens for answer in answers) <= 1  # those that had no turn in time


# --- prompts that do not fit ----------------------------------------------------------------------


def test_a_long_prompt_is_cut_at_the_left_with_a_warning(text_model):
    ids = text_model.tokenizer.encode("a " * 300).ids
    prompt = text_model.encode("a " * 300, max_new_tokens=50)
    assert prompt.token_ids == ids[-206:]
    assert prompt.warnings == ("The prompt was too long for the model; its last 206 tokens were kept.",)


@pytest.mark.parametrize(
    "text", ["a " * 50_000, " " * 400_000 + "-" * 400_000, "word and more. " * 30_000, "é🙂" * 9_000]
)
def test_a_text_is_cut_before_it_is_tokenised_and_ends_as_the_whole_one(text_model, text):
    read, tokenizer = [], text_model.tokenizer

    class Reading:
        def encode(self, part, **how):
            read.append(len(part))
            return tokenizer.encode(part, **how)

        def get_vocab(self):
            return tokenizer.get_vocab()

    model = TextModel(Reading(), text_model.engine, "plain")
    longest = max(map(len, tokenizer.get_vocab()))
    prompt = model.encode_plain(text, max_new_tokens=50)
    assert prompt.token_ids == tokenizer.encode(text).ids[-206:]
    assert prompt.warnings
    assert sum(read) <= 206 * (8 + longest) + 4 * max(256, 2 * longest)


def test_of_a_long_history_only_the_end_is_tokenised(text_model):
    history = [f"turn {n}. " * 200 for n in range(1, 101)]
    prompt = text_model.encode("Count.", history, max_new_tokens=50)
    ids = [token for turn in (*history, "Count.") for token in text_model._turn_ids(turn, 10**6)]
    assert prompt.token_ids == ids[-206:]


def test_a_long_question_is_answered_after_its_end(text_model):
    answer = ask(text_model, "word " * 400 + "\nQuestion: Count.", max_new_tokens=60)
    assert answer.prompt_tokens == 256 - 60
    assert answer.warnings == ["The prompt was too long for the model; its last 196 tokens were kept."]


@pytest.mark.parametrize("max_new_tokens", [255, 256, 1024])
def test_more_new_tokens_than_the_window_leave_the_prompt_whole(text_model, max_new_tokens):
    answer = ask(text_model, "Count.", max_new_tokens=max_new_tokens)
    assert (answer.answer, answer.warnings) == (LESSONS["Count."], [])


def test_an_answer_may_fill_the_window_and_no_more(endless):
    prompts = [endless.encode(text, max_new_tokens=1024) for text in ("a", "a longer prompt", "word " * 500)]
    together = endless.complete(prompts, Sampling(max_new_tokens=1024))
    assert [item.prompt_tokens + item.completion_tokens for item in together] == [256, 256, 256]
    assert {item.finish_reason for item in together} == {"length"}
    alone = [endless.complete([prompt], Sampling(max_new_tokens=1024))[0] for prompt in prompts]
    assert ids_of(alone) == ids_of(together)


def test_an_empty_prompt_is_refused(text_model):
    with pytest.raises(MlflowException, match="The prompt has no tokens") as refused:
        text_model.complete([text_model.encode("a"), text_model.encode("")], Sampling())
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert ask(text_model, "Count.").answer == LESSONS["Count."]


@pytest.mark.parametrize("question", ["Что такое MLflow? 🤖", "\x00\x01", "𝔘𝔫𝔦", "a\u0301", "\u202eabc", "\ufeff"])
def test_characters_that_the_tokenizer_was_never_shown(text_model, question):
    assert ask(text_model, question, max_new_tokens=4).completion_tokens <= 4
    assert text_model.tokenizer.decode(text_model.encode(question).token_ids) == question


@pytest.mark.parametrize("question", ["{question}", "{{question}}", "{{ other }} {0!r} %s {", "a\n\nb\\n$x"])
def test_braces_reach_the_ids_as_written(text_model, question):
    prompt = text_model.encode(to_langchain_template(TEMPLATE).format(question=question))
    assert text_model.tokenizer.decode(prompt.token_ids) == f"Question: {question}\nAnswer:"


# --- a crowd --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [{}, {"repetition_penalty": 0.5}, {"repetition_penalty": 8.0}, {"stop": ["two"]}, {"max_new_tokens": 5}],
    ids=str,
)
def test_answers_in_a_batch_equal_answers_alone(text_model, params):
    together = text_model.complete(prompts_of(text_model, QUESTIONS), Sampling(**params))
    assert ids_of(together) == [ask(text_model, question, **params).token_ids for question in QUESTIONS]


def test_order_is_kept_over_more_rows_than_a_batch_holds(text_model):
    questions = [list(LESSONS)[i * 7 % len(LESSONS)] for i in range(140)]
    answers = text_model.complete(prompts_of(text_model, questions), Sampling())
    assert [answer.answer for answer in answers] == [LESSONS[question] for question in questions]


def test_several_threads_at_once(text_model):
    questions = list(LESSONS) * 6

    def either(i):
        if i % 3 == 0:
            return stream(text_model, questions[i])[0]
        return ask(text_model, questions[i], seed=i).answer

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(either, range(len(questions)))) == [LESSONS[question] for question in questions]


def test_callers_that_want_different_things_do_not_disturb_each_other(text_model):
    wishes = [
        {},
        {"repetition_penalty": 2.0},
        {"stop": ["two"]},
        {"max_new_tokens": 4},
        {"temperature": 3.0, "seed": 1},
    ]
    alone = [ask(text_model, "Count.", **wish).token_ids for wish in wishes]
    with ThreadPoolExecutor(10) as pool:
        given = list(pool.map(lambda i: ask(text_model, "Count.", **wishes[i % 5]).token_ids, range(20)))
    assert given == alone * 4


# --- streaming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", LESSONS)
def test_streamed_text_equals_the_predicted_text(text_model, question):
    text, last = stream(text_model, question)
    predicted = ask(text_model, question)
    assert text == last["answer"] == predicted.answer
    assert last["delta"] == ""
    assert set(vars(predicted)) | {"delta"} == set(last)


def test_a_stream_has_pieces_and_no_broken_character(text_model):
    (prompt,) = prompts_of(text_model, ["Say hello."])
    taken = []
    for event in text_model.stream(prompt, Sampling()):
        taken.append(event["delta"])
        time.sleep(0.001)  # a reader that is slower than the engine still gets it all
    assert "".join(taken) == UNICODE
    assert not any("\ufffd" in delta for delta in taken)


def test_a_long_stream_begins_before_it_ends(endless):
    (prompt,) = prompts_of(endless, ["x"])
    events = list(endless.stream(prompt, Sampling(max_new_tokens=200)))
    assert len(events) > 20


def test_sampled_text_streams_as_it_is_predicted(text_model):
    for seed in range(8):  # random bytes: broken characters, spaces at the ends, newlines
        params = {"temperature": 5.0, "seed": seed, "max_new_tokens": 40}
        assert stream(text_model, "Say hello.", **params)[0] == ask(text_model, "Say hello.", **params).answer


# --- giving up ------------------------------------------------------------------------------------


def test_closing_a_stream_ends_the_work(tireless, waiting):
    before = tireless.engine.load().cancelled
    events = tireless.stream(tireless.encode("What is MLflow?"), Sampling(max_new_tokens=1000))
    next(events)
    assert tireless.engine.load().running == 1
    events.close()
    waiting.until(lambda: tireless.engine.load().running == 0, 2)
    assert tireless.engine.load().cancelled == before + 1


def test_a_stream_that_is_dropped_ends_the_work(tireless, waiting):
    events = tireless.stream(tireless.encode("What is MLflow?"), Sampling(max_new_tokens=1000))
    next(events)
    del events
    gc.collect()
    waiting.until(lambda: tireless.engine.load().running == 0, 2)


async def _begun(tireless):
    end = time.monotonic() + 5
    while not tireless.engine.load().running:
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def _idle(tireless):
    end = time.monotonic() + 5
    while tireless.engine.load().running or tireless.engine.load().waiting:
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def test_cancelling_a_task_ends_the_work(tireless):
    async def cancelled():
        before = tireless.engine.load().cancelled
        asking = asyncio.create_task(tireless.acomplete(tireless.encode("x"), Sampling(max_new_tokens=1000)))
        await _begun(tireless)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await _idle(tireless)
        return tireless.engine.load().cancelled - before

    assert asyncio.run(cancelled()) == 1


def test_closing_an_asynchronous_stream_ends_the_work(tireless):
    async def closed():
        before = tireless.engine.load().cancelled
        events = tireless.astream(tireless.encode("x"), Sampling(max_new_tokens=1000))
        await anext(events)
        await events.aclose()
        await _idle(tireless)
        return tireless.engine.load().cancelled - before

    assert asyncio.run(closed()) == 1


def test_from_an_event_loop_the_answers_are_the_same(text_model):
    async def all_of_them():
        answers = [text_model.acomplete(prompt, Sampling()) for prompt in prompts_of(text_model, LESSONS)]
        streams = [text_model.astream(prompt, Sampling()) for prompt in prompts_of(text_model, LESSONS)]
        texts = [[event["delta"] async for event in events] for events in streams]
        return [answer.answer for answer in await asyncio.gather(*answers)], ["".join(text) for text in texts]

    assert asyncio.run(all_of_them()) == (list(LESSONS.values()), list(LESSONS.values()))


def test_an_event_loop_goes_on_while_it_waits(tireless):
    async def ticks():
        asking = asyncio.create_task(tireless.acomplete(tireless.encode("x"), Sampling(max_new_tokens=1000)))
        count = 0
        while not asking.done():
            await asyncio.sleep(0.001)
            count += 1
        return count

    assert asyncio.run(ticks()) > 5


# --- turns and history ----------------------------------------------------------------------------


def test_dialogue_turns_are_joined_by_end_of_text(text_model):
    model = TextModel(text_model.tokenizer, text_model.engine, DIALOGUE)
    ids = model.tokenizer.encode("Hi<|endoftext|>Hello!<|endoftext|>What is MLflow?<|endoftext|>").ids
    assert model.encode("What is MLflow?", ["Hi", "Hello!"]).token_ids == ids
    assert text_model.encode("What is MLflow?", ["Hi", "Hello!"]).token_ids == ids
    assert model.encode("Hi").token_ids == [*model.tokenizer.encode("Hi").ids, 0]


def test_a_plain_answer_follows_a_space_and_a_dialogue_answer_does_not(text_model):
    dialogue = TextModel(text_model.tokenizer, text_model.engine, DIALOGUE)
    with_space, without = (text_model.tokenizer.encode(text).ids for text in (" Yes", "Yes"))
    assert text_model.encode_answer("Yes", "Answer:") == with_space
    assert text_model.encode_answer("Yes", "Answer:\n") == without
    assert text_model.encode_answer("Yes", "Q", ["a", "b"]) == without
    assert dialogue.encode_answer("Yes", "Hi") == without


def test_a_dialogue_is_answered(text_model):
    model = TextModel(text_model.tokenizer, text_model.engine, DIALOGUE)
    (answer,) = model.complete([model.encode("And now?", ["Hi", "Hello!"], 5)], Sampling(max_new_tokens=5))
    assert 0 <= answer.completion_tokens <= 5


def test_another_turn_format_is_refused(text_model):
    with pytest.raises(MlflowException, match="turn format is 'chat'; use 'plain' or 'dialogue'"):
        TextModel(text_model.tokenizer, text_model.engine, "chat")


# --- log-likelihoods ------------------------------------------------------------------------------


def test_log_likelihoods_equal_a_plain_computation(text_model, taught):
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(taught).eval()
    pairs = [("Question: Count.\nAnswer:", " one two"), ("A much longer prompt than that:", " yes"), ("x", " y z")]
    prompts = [text_model.encode(prompt) for prompt, _ in pairs]
    answers = [text_model.tokenizer.encode(answer).ids for _, answer in pairs]
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = [*prompt.token_ids, *answer]
        with torch.inference_mode():
            log_p = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        start = len(prompt.token_ids)
        expected.append(sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids))) / len(answer))
    assert text_model.log_likelihoods(prompts, answers) == pytest.approx(expected, abs=1e-4)
    assert all(value < 0 for value in expected)


def test_log_likelihoods_keep_the_order_over_batches(text_model):
    prompt = text_model.encode("Question: Count.\nAnswer:")
    answers = [text_model.tokenizer.encode(" one" * (1 + i * 5 % 7)).ids for i in range(40)]
    alone = [text_model.log_likelihoods([prompt], [answer])[0] for answer in answers]
    assert text_model.log_likelihoods([prompt] * len(answers), answers) == pytest.approx(alone, abs=1e-4)


def test_an_answer_too_long_for_the_window_is_cut_at_its_end(text_model):
    prompt, answer = text_model.encode("x"), [5] * 400
    (cut,) = text_model.log_likelihoods([prompt], [answer])
    (fits,) = text_model.log_likelihoods([prompt], [answer[: 256 - len(prompt.token_ids)]])
    assert cut == pytest.approx(fits, abs=1e-4)


# --- checkpoints with their own limits ------------------------------------------------------------


def test_the_smallest_window_still_answers(tmp_path, engine_name, tiny_ir):
    folder = make_gpt2(tmp_path / "short", positions=8)
    # The IR has the same weights and more positions: the limits are what is tested.
    model = TextModel(load_tokenizer(folder), open_engine(engine_name, folder, tiny_ir), "plain")
    (answer,) = model.complete([model.encode("What is MLflow, and what is it for?")], Sampling())
    model.close()
    assert answer.prompt_tokens + answer.completion_tokens <= 8
    assert answer.warnings


def test_a_closed_model_refuses(engine_name, taught, taught_ir):
    model = TextModel(load_tokenizer(taught), open_engine(engine_name, taught, taught_ir), "plain")
    model.close()
    model.close()
    assert not model.engine.is_healthy()
    with pytest.raises(MlflowException) as refused:
        ask(model, "Count.")
    assert refused.value.error_code == "INTERNAL_ERROR"


def test_closing_fails_the_jobs_under_way(engine_name, tiny_gpt2, tiny_ir, request):
    model = TextModel(load_tokenizer(tiny_gpt2), open_engine(engine_name, tiny_gpt2, tiny_ir), "plain")
    events = model.stream(model.encode("x"), Sampling(max_new_tokens=240))
    next(events)
    model.close()
    with pytest.raises(MlflowException, match="The model was closed"):
        list(events)
