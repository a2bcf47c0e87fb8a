"""OpenAI's own client and LangChain's against our server, over real connections: answers, streams, refusals."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import openai
import pytest
from conftest import StandIn, saved_model
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from langchain_openai import OpenAI as LangChainText
from listening import listening
from mlflow.exceptions import MlflowException
from tiny_model import LESSONS, rendered

from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

MODEL = "saved"  # a folder's last part is its name
COUNT = LESSONS["Count."]
KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def url(tmp_path_factory, lessons_gpt2):
    model = saved_model(tmp_path_factory.mktemp("model"), lessons_gpt2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THREADS", "1")
        with listening(create_app(ServerSettings(model_uri=str(model)))) as url:
            yield url


@pytest.fixture(scope="module")
def client(url):
    return client_of(url)


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def ask(client: openai.OpenAI, question: str, **given):
    messages = given.pop("messages", [{"role": "user", "content": question}])
    return client.chat.completions.create(**{"model": MODEL, "messages": messages} | given)


def known(url: str, question: str, history: tuple[str, ...] = (), **params) -> dict:
    """What the model itself says, with its tokens: the measure of what the clients are told."""
    body = {"inputs": [{"question": question, "history": list(history)}], "params": params}
    return httpx.post(f"{url}/invocations", json=body).json()["predictions"][0]


# --- chat -----------------------------------------------------------------------------------------


def test_a_whole_answer_with_its_true_counts(client, url):
    truth = known(url, "Count.")
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Count."}]
    )
    answer = raw.parse()
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.id == f"chatcmpl-{raw.headers['x-request-id']}" and abs(answer.created - time.time()) < 60
    assert [(c.index, c.message.role, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "assistant", COUNT, "stop")
    ]
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (truth["prompt_tokens"], len(truth["token_ids"]))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_cut_answer_says_length(client, name):
    answer = ask(client, "Count.", **{name: 3})
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 3)
    assert COUNT.startswith(answer.choices[0].message.content)


@pytest.mark.parametrize(
    ("question", "given", "reason"),
    [("Say hello.", {}, "stop"), ("Count.", {"max_tokens": 5}, "length"), ("Count.", {"stop": "five"}, "stop")],
)
def test_a_stream_says_the_same_as_the_whole_answer(client, question, given, reason):
    whole = ask(client, question, **given)
    chunks = list(ask(client, question, stream=True, stream_options={"include_usage": True}, **given))
    assert {(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks} == {
        (chunks[0].id, chunks[0].created, MODEL, "chat.completion.chunk")
    }
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
    *spoken, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in spoken] == [None] * (len(spoken) - 1) + [reason]
    assert reason == whole.choices[0].finish_reason
    assert last.choices == [] and last.usage == whole.usage
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in spoken)


def test_a_stream_without_include_usage_has_none(client):
    chunks = list(ask(client, "Count.", stream=True))
    assert len(chunks) > 3, "it came in one piece"
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in chunks)


@pytest.mark.parametrize("stop", ["five", [" five", "nine"]])
def test_an_answer_ends_before_a_stop_string(client, stop):
    answer = ask(client, "Count.", stop=stop)
    assert answer.choices[0].message.content == "one two three four"
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats_a_draw(client):
    drawn = [ask(client, "Count.", temperature=2, seed=seed).choices[0].message.content for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_stands_before_the_first_question(client, url, role):
    talk = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "Count."}]
    truth = known(url, "Be brief.\nCount.")
    answer = ask(client, "", messages=talk)
    assert answer.choices[0].message.content == truth["answer"]
    assert answer.usage.prompt_tokens == truth["prompt_tokens"] > known(url, "Count.")["prompt_tokens"]


def test_earlier_turns_are_the_models_history(client, url):
    talk = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Count.")]
    answer = ask(client, "", messages=[{"role": role, "content": text} for role, text in talk])
    truth = known(url, "Count.", ("Hi", "Hello!"))
    assert answer.choices[0].message.content == truth["answer"]
    assert answer.usage.prompt_tokens == truth["prompt_tokens"]


def test_content_may_come_in_parts_of_text(client, url):
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Count."}]
    answer = ask(client, "", messages=[{"role": "user", "content": parts}])
    assert answer.usage.prompt_tokens == known(url, "Be brief.\nCount.")["prompt_tokens"]


def test_many_callers_at_once_each_get_their_own_answer(url):
    questions = [list(LESSONS)[i % len(LESSONS)] for i in range(16)]

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            answers = await asyncio.gather(*(ask(client, question) for question in questions))
        return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(all_at_once()) == [LESSONS[question] for question in questions]


# --- texts ----------------------------------------------------------------------------------------


def test_a_text_is_continued_as_it_stands(client, url):
    answer = client.completions.create(model=MODEL, prompt=rendered("Count."), max_tokens=96)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (f" {COUNT}", "stop")
    assert answer.usage.prompt_tokens == known(url, "Count.")["prompt_tokens"]


def test_several_texts_are_continued_in_their_order(client):
    prompts = [rendered(question) for question in LESSONS]
    answer = client.completions.create(model=MODEL, prompt=prompts, max_tokens=96)
    assert [choice.index for choice in answer.choices] == list(range(len(LESSONS)))
    assert [choice.text for choice in answer.choices] == [f" {text}" for text in LESSONS.values()]
    alone = [client.completions.create(model=MODEL, prompt=prompt, max_tokens=96).usage for prompt in prompts]
    assert answer.usage.completion_tokens == sum(usage.completion_tokens for usage in alone)
    assert answer.usage.prompt_tokens == sum(usage.prompt_tokens for usage in alone)


def test_openais_default_length_of_a_text_is_kept(client):
    answer = client.completions.create(model=MODEL, prompt=rendered("Count."))
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


def test_a_text_is_streamed(client):
    options = {"include_usage": True}
    asked = {"model": MODEL, "prompt": rendered("Count."), "max_tokens": 96}
    *spoken, last = client.completions.create(**asked, stream=True, stream_options=options)
    assert "".join(chunk.choices[0].text for chunk in spoken) == f" {COUNT}"
    assert spoken[-1].choices[0].finish_reason == "stop"
    assert last.choices == [] and last.usage == client.completions.create(**asked).usage


def test_a_stream_continues_one_text_only(client):
    with pytest.raises(openai.BadRequestError, match="A stream continues one text") as refused:
        client.completions.create(model=MODEL, prompt=["a", "b"], stream=True)
    assert refused.value.param == "prompt"


# --- models, refusals, failures -------------------------------------------------------------------


def test_the_model_is_listed(client):
    assert [(model.id, model.object) for model in client.models.list()] == [(MODEL, "model")]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.models.retrieve("gpt-5"),
        lambda client: ask(client, "a", model="gpt-5"),
        lambda client: ask(client, "a", model="gpt-5", stream=True),
        lambda client: client.completions.create(model="gpt-5", prompt="a"),
    ],
)
def test_another_model_is_not_found(client, call):
    with pytest.raises(openai.NotFoundError, match="'gpt-5' does not answer here") as refused:
        call(client)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
UNSUPPORTED = {
    "n": 2, "tools": [TOOL], "logprobs": True, "frequency_penalty": 0.5, "presence_penalty": -1,
    "logit_bias": {"5": 10}, "response_format": {"type": "json_object"}, "modalities": ["text", "audio"],
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_followed_is_refused_by_name(client, name, stream):
    with pytest.raises(openai.BadRequestError, match=f"{name}: not supported here") as refused:
        ask(client, "Count.", stream=stream, **{name: UNSUPPORTED[name]})
    assert (refused.value.param, refused.value.type) == (name, "invalid_request_error")


@pytest.mark.parametrize("given", [{"n": 2}, {"best_of": 3}, {"echo": True}, {"suffix": "end"}, {"logprobs": 2}])
def test_what_cannot_be_followed_in_a_text_is_refused_by_name(client, given):
    with pytest.raises(openai.BadRequestError, match="not supported here") as refused:
        client.completions.create(model=MODEL, prompt="a", **given)
    assert [refused.value.param] == list(given)


def test_what_changes_nothing_is_taken(client):
    same = {"n": 1, "tools": [], "logprobs": False, "frequency_penalty": 0.0, "response_format": {"type": "text"}}
    ignored = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    assert ask(client, "Count.", **same, **ignored).choices[0].message.content == COUNT


class Faulty(StandIn):
    """Begins to answer, waits while it is told to, and then fails or ends."""

    def __init__(self):
        super().__init__({"answer": "one two", "finish_reason": "stop"})
        self.fails, self.may_end = False, threading.Event()

    async def stream(self, question: dict, params: dict):
        yield "one"
        while not self.may_end.is_set():
            await asyncio.sleep(0.01)
        if self.fails:
            raise MlflowException("The engine ended.", error_code=1)
        yield " two"
        yield self.said


@pytest.fixture
def faulty() -> Faulty:
    return Faulty()


@pytest.fixture
def guarded(faulty):
    """A server with a key and room for one question."""
    info = ModelInfo(model=MODEL, model_version=None, prompt="")
    settings = ServerSettings(api_keys=(KEY,), queue_limit=1)
    with listening(create_app(settings, lambda uri, tracking_uri: LoadedModel(faulty, info))) as url:
        yield url
        faulty.may_end.set()


def test_a_failure_inside_a_stream_is_raised_by_the_client(guarded, faulty):
    faulty.fails = True
    heard = []
    with pytest.raises(openai.APIError, match="The engine ended. Ask again") as failed:
        for chunk in ask(client_of(guarded, KEY), "Count.", stream=True):
            heard.append(chunk.choices[0].delta.content)
            faulty.may_end.set()
    assert heard == ["", "one"]
    assert (failed.value.code, failed.value.type) == ("engine_down", "server_error")


def test_a_full_queue_is_a_rate_limit_until_the_stream_is_closed(guarded, faulty):
    client = client_of(guarded, KEY)
    first = ask(client, "Count.", stream=True)
    next(first)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client, "Count.")
    assert refused.value.response.headers["retry-after"] == "1" and refused.value.code == "overloaded"
    first.close()
    patient = client.with_options(max_retries=2)  # the connection's end is noticed a moment later
    assert ask(patient, "Count.").choices[0].message.content == "one two"


def test_the_key_is_the_clients_own(guarded):
    with pytest.raises(openai.AuthenticationError) as refused:
        ask(client_of(guarded, "another-key"), "Count.")
    assert refused.value.code == "invalid_api_key" and KEY not in str(refused.value)
    assert client_of(guarded, KEY).models.list().data[0].id == MODEL


def test_a_model_that_counts_nothing_says_so(guarded, faulty):
    faulty.may_end.set()
    client = client_of(guarded, KEY)
    assert ask(client, "Count.").usage is None
    *_, ended, counted = ask(client, "Count.", stream=True, stream_options={"include_usage": True})
    assert ended.choices[0].finish_reason == "stop" and counted.usage is None


# --- LangChain ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm(url) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=MODEL, max_retries=0, stream_usage=True)


def counted(message: AIMessage) -> tuple[int, int]:
    return message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]


def test_langchain_gets_answer_counts_and_ending(llm, url):
    truth = known(url, "Count.")
    message = llm.invoke("Count.")
    assert (message.content, message.response_metadata["finish_reason"]) == (COUNT, "stop")
    assert counted(message) == (truth["prompt_tokens"], truth["completion_tokens"])
    assert message.response_metadata["model_name"] == MODEL
    cut = llm.bind(max_tokens=2).invoke("Count.")
    assert (cut.response_metadata["finish_reason"], counted(cut)[1]) == ("length", 2)


def test_langchain_streams(llm):
    pieces = list(llm.stream("Count."))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert len(pieces) > 3 and whole.content == COUNT
    assert whole.response_metadata["finish_reason"] == "stop"
    assert counted(whole) == counted(llm.invoke("Count."))


def test_a_langchain_chain_with_system_history_and_stop(llm, url):
    template = ChatPromptTemplate([("system", "Be brief."), ("placeholder", "{earlier}"), ("human", "{question}")])
    chain = template | llm.bind(stop=["\n"])
    earlier = [HumanMessage("Hi"), AIMessage("Hello!")]
    message = chain.invoke({"question": "Count.", "earlier": earlier})
    truth = known(url, "Count.", ("Be brief.\nHi", "Hello!"), stop=["\n"])
    assert (message.content, message.usage_metadata["input_tokens"]) == (truth["answer"], truth["prompt_tokens"])
    assert llm.invoke([SystemMessage("Be brief."), HumanMessage("Count.")]).usage_metadata["input_tokens"] > 20


def test_langchain_batches_in_order(llm):
    answers = asyncio.run(llm.abatch(list(LESSONS)))
    assert [answer.content for answer in answers] == list(LESSONS.values())


def test_langchain_is_refused_by_name(llm):
    with pytest.raises(openai.BadRequestError, match="tools: not supported here"):
        llm.bind_tools([TOOL]).invoke("Count.")
    with pytest.raises(openai.BadRequestError, match="response_format: not supported here"):
        llm.with_structured_output({"title": "A", "type": "object", "properties": {}}, method="json_schema").invoke("a")
    with pytest.raises(openai.NotFoundError):
        llm.bind(model="gpt-5").invoke("Count.")


def test_langchains_text_model_continues_texts(url):
    llm = LangChainText(base_url=f"{url}/v1", api_key="none", model=MODEL, max_tokens=96, max_retries=0, temperature=0)
    prompts = [rendered(question) for question in LESSONS]
    assert llm.batch(prompts) == [f" {text}" for text in LESSONS.values()]
    assert "".join(llm.stream(rendered("Count."))) == f" {COUNT}"
