"""The prompt of an answer: in production, on disk, the model's own, or named; and `/prompts`, on a real registry."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from conftest import StandIn, free_port
from fastapi.testclient import TestClient

from genai_server.answer import Answer
from genai_server.answering.answerers import EngineAnswerer
from genai_server.answering.model_output import ModelPrompt
from genai_server.answering.predictor import LoadedModel
from genai_server.errors import BadQuestion, NoRegistry, Overloaded, RegistryDown, UnknownPrompt
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.prompts.registry import StoredVersion
from genai_server.prompts.selection import MAX_LOOKUPS, Prompts, PromptText, render
from genai_server.registry import alias_moves
from genai_server.settings import ServerSettings

KEY = "secret-key-1"
OWN = "Own: {{question}}"
ODD = ["{{question}}", "{{other}} {x} {0!r} {", '<b>"bold"</b> &amp; \\1 \\g<0>', "a\n\n🙂 }} {{"]


def wait_until(is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.01)


# --- following the one in production, with a registry that does as it is told ---------------------


class Scripted:
    """A registry that has one prompt, is down, or never answers."""

    identity = "scripted"

    def __init__(self, template: str = "Live: {{question}}", version: int = 2):
        self.failure: Exception | None = None
        self.go_on, self.calls = threading.Event(), 0
        self.go_on.set()
        self.put(template, version)

    def put(self, template: str, version: int, is_chat: bool = False) -> None:
        self.stored = StoredVersion("qa", version, template, is_chat, "", "", ["production"], {})

    def find(self, name: str, version: int | None = None, alias: str | None = None) -> StoredVersion:
        self.calls += 1
        assert self.go_on.wait(60)
        if self.failure:
            raise self.failure
        if name != self.stored.name or alias == "none":
            raise UnknownPrompt(f"There is no prompt {name!r}.")
        return self.stored


@pytest.fixture
def follow(tmp_path) -> Iterator[Callable[..., Prompts]]:
    started: list[Prompts] = []

    def start(registry: Scripted, name: str = "qa", file: Path = tmp_path / "kept" / "prompt.json") -> Prompts:
        started.append(Prompts(registry, 0.01, file))
        started[-1].start(lambda: name)
        return started[-1]

    yield start
    for prompts in started:
        prompts.stop()
        prompts.registry.go_on.set()


def shown(prompts: Prompts) -> str:
    found = prompts.current("qa")
    return f"{found} {found.source}" if found else "own"


def test_the_alias_is_followed(follow):
    registry = Scripted()
    prompts = follow(registry)
    wait_until(lambda: shown(prompts) == "qa/2 live")
    registry.put("New: {{question}}", 3)
    wait_until(lambda: shown(prompts) == "qa/3 live")
    assert prompts.current("qa").template == "New: {{question}}"
    assert prompts.current("other") is None and prompts.current(None) is None


def test_when_mlflow_is_gone_the_last_good_one_goes_on_and_survives_a_restart(follow):
    registry = Scripted()
    prompts = follow(registry)
    wait_until(lambda: shown(prompts) == "qa/2 live")
    registry.failure = RegistryDown("gone")
    wait_until(lambda: shown(prompts) == "qa/2 disk")
    prompts.stop()
    again = follow(registry)
    assert shown(again) == "qa/2 disk"  # at once, without a look
    registry.failure = None
    wait_until(lambda: shown(again) == "qa/2 live")


def test_with_neither_it_is_the_models_own(follow):
    registry = Scripted()
    registry.failure = RegistryDown("gone")
    prompts = follow(registry)
    wait_until(lambda: registry.calls > 2)
    assert shown(prompts) == "own"


def test_a_dead_mlflow_slows_nothing(follow):
    registry = Scripted()
    registry.go_on.clear()
    prompts = follow(registry)
    wait_until(lambda: registry.calls == 1)  # and it hangs there
    started = time.perf_counter()
    for _ in range(1000):
        assert prompts.current("qa") is None
    assert time.perf_counter() - started < 1


def test_nothing_in_production_means_the_models_own(follow, tmp_path):
    registry = Scripted()
    prompts = follow(registry)
    wait_until(lambda: shown(prompts) == "qa/2 live")
    registry.failure = UnknownPrompt("no alias")
    wait_until(lambda: shown(prompts) == "own")
    wait_until(lambda: not (tmp_path / "kept" / "prompt.json").exists())


@pytest.mark.parametrize("template", ["{{question}} {{topic}}", "no question", "{% if a %}{{question}}{% endif %}"])
def test_one_that_a_question_cannot_fill_changes_nothing(follow, template):
    registry = Scripted()
    prompts = follow(registry)
    wait_until(lambda: shown(prompts) == "qa/2 live")
    registry.put(template, 3)
    wait_until(lambda: shown(prompts) == "qa/2 disk")
    registry.put('[{"role": "user", "content": "{{question}}"}]', 4, is_chat=True)
    calls = registry.calls
    wait_until(lambda: registry.calls > calls + 2)
    assert shown(prompts) == "qa/2 disk"


GOOD_COPY = {
    "registry": "scripted",
    "prompt": {"name": "qa", "version": 1, "template": "{{question}}", "source": "live"},
}


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (json.dumps(GOOD_COPY), "qa/1 disk"),
        (json.dumps(GOOD_COPY | {"registry": "another"}), "own"),
        (json.dumps(GOOD_COPY | {"prompt": GOOD_COPY["prompt"] | {"name": "other"}}), "own"),
        (json.dumps(GOOD_COPY | {"prompt": GOOD_COPY["prompt"] | {"template": "x"}}), "own"),
        (json.dumps(GOOD_COPY | {"prompt": {"name": "qa"}}), "own"),
        (json.dumps(GOOD_COPY)[:-9], "own"),
        ("[1]", "own"),
    ],
)
def test_only_a_sound_copy_of_this_registry_is_used(follow, tmp_path, kept, expected):
    file = tmp_path / "prompt.json"
    file.write_text(kept, "utf-8")
    registry = Scripted()
    registry.failure = RegistryDown("gone")
    assert shown(follow(registry, file=file)) == expected


def test_a_disk_that_takes_nothing_costs_the_copy_only(follow, tmp_path):
    (tmp_path / "file").write_text("")
    prompts = follow(Scripted(), file=tmp_path / "file" / "prompt.json")  # below a file: not even root may
    wait_until(lambda: shown(prompts) == "qa/2 live")


def test_a_bundle_asks_nobody(tmp_path):
    settings = ServerSettings(model_uri=str(tmp_path))
    assert settings.refresh_s == 0 and not settings.has_registry
    prompts = Prompts(None, settings.refresh_s, tmp_path / "prompt.json")
    threads = threading.active_count()
    prompts.start(lambda: "qa")
    assert threading.active_count() == threads and prompts.current("qa") is None
    with pytest.raises(NoRegistry):
        asyncio.run(prompts.named("qa", 1, None))


def test_a_folder_with_an_mlflow_for_traces_keeps_its_prompt_unless_told():
    assert ServerSettings(model_uri="/m", tracking_uri="http://mlflow:5000").refresh_s == 0
    assert ServerSettings(model_uri="/m", tracking_uri="http://mlflow:5000", prompt_refresh_s=5.0).refresh_s == 5
    assert ServerSettings().refresh_s == 30


# --- one that a caller names ----------------------------------------------------------------------


def test_variables_are_filled_once_and_named_when_they_are_wrong():
    prompt = PromptText("p", 1, "{{a}} of {{ b }}", "named")
    assert render(prompt, {"a": "{{b}}", "b": "{{a}}"}) == "{{b}} of {{a}}"
    with pytest.raises(BadQuestion, match="missing b; unknown c, d"):
        render(prompt, {"a": "x", "d": "x", "c": "x"})


def test_a_named_one_is_kept_a_while_and_used_when_mlflow_is_gone(tmp_path):
    async def scenario() -> None:
        registry = Scripted()
        prompts = Prompts(registry, 60, tmp_path / "p.json")
        for _ in range(5):
            assert (await prompts.named("qa", None, None)).source == "named"
        assert registry.calls == 1
        brief = Prompts(registry, 0, tmp_path / "p.json")
        await brief.named("qa", 2, None)
        registry.failure = RegistryDown("gone")
        assert (await brief.named("qa", 2, None)).version == 2
        with pytest.raises(RegistryDown):
            await brief.named("qa", 5, None)

    asyncio.run(scenario())


def test_lookups_that_are_stuck_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("genai_server.prompts.selection.LOOKUP_TIMEOUT_S", 0.05)
    registry = Scripted()
    registry.go_on.clear()

    async def scenario() -> None:
        prompts = Prompts(registry, 60, tmp_path / "p.json")
        for number in range(MAX_LOOKUPS):
            with pytest.raises(RegistryDown, match="within 0.05 s"):
                await prompts.named("qa", number, None)
        with pytest.raises(Overloaded):
            await prompts.named("qa", 99, None)
        registry.go_on.set()
        while prompts._lookups:
            await asyncio.sleep(0.01)
        assert (await prompts.named("qa", 99, None)).version == 2

    asyncio.run(scenario())


# --- through the model's own engine ---------------------------------------------------------------


class Model:
    """The methods of a `QuestionModel` that matter here."""

    golden, prompt = (), {}

    def answer(self, model_input, params=None): ...

    async def ask(self, model_input, params=None, *, is_rendered=False):
        return [{"answer": (model_input, is_rendered)}]

    async def ask_stream(self, model_input, params=None, *, is_rendered=False):
        yield {"delta": "", "answer": (model_input, is_rendered)}


def test_the_text_of_the_prompt_takes_the_place_of_the_question():
    async def scenario() -> list[Answer]:
        engine = EngineAnswerer(None, Model())
        assert engine.takes_prompts
        whole = {"question": "Q", "history": [], "rendered": "In full: Q"}
        pieces = [piece async for piece in engine.stream(whole, {})]
        return [await engine.ask(whole, {}), *pieces, await engine.ask({"question": "Q", "history": []}, {})]

    asked, streamed, plain = asyncio.run(scenario())
    assert asked == streamed == Answer(str(({"question": "In full: Q", "history": []}, True)))
    assert plain == Answer(str(({"question": "Q", "history": []}, False)))


def test_a_version_that_was_registered_earlier_takes_none():
    class Early(Model):
        async def ask(self, model_input, params=None):
            return [{"answer": model_input}]

    assert not EngineAnswerer(None, Early()).takes_prompts


# --- the whole server on a real registry ----------------------------------------------------------


class Recorder(StandIn):
    """Says back what the model would get."""

    takes_prompts = True
    prompt = ModelPrompt("live-qa", 1, OWN)

    def __init__(self) -> None:
        super().__init__({"answer": "", "finish_reason": "stop"})

    async def ask(self, question: dict, params: dict, group: int = 0) -> Answer:
        return Answer(question.get("rendered", f"own: {question.get('question')}"))


INFO = ModelInfo("m", "models:/m/1", "1", prompt="live-qa/1", engine={"name": "stand-in"})


@contextmanager
def served(model: StandIn | None = None, **settings) -> Iterator[TestClient]:
    given = {"model_uri": "models:/m/1", "admin_keys": (KEY,)} | settings
    app = create_app(ServerSettings(**given), lambda *_: LoadedModel(model or Recorder(), INFO))
    with TestClient(app, headers={"authorization": f"Bearer {KEY}"}) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    base = tmp_path_factory.mktemp("live")
    uri = f"sqlite:///{base / 'mlflow.db'}"
    mlflow.MlflowClient(uri).search_experiments()  # makes the tables
    with served(tracking_uri=uri, prompt_refresh_s=0.5, prompt_file=str(base / "prompt.json")) as client:
        client.uri = uri
        yield client


@pytest.fixture
def theirs(client) -> mlflow.MlflowClient:
    """Plain MLflow beside the server."""
    return mlflow.MlflowClient(client.uri, client.uri)


def create(client: TestClient, name: str, template: str, **more) -> dict:
    response = client.post("/prompts", json={"name": name, "template": template, **more})
    assert response.status_code == 201, response.text
    return response.json()


def refused(response, status: int, said: str) -> None:
    assert response.status_code == status and response.headers["content-type"] == "application/problem+json"
    assert said in response.json()["detail"], response.text


def test_the_life_of_a_prompt_over_http(client, theirs):
    made = create(client, "life", "One: {{question}}", commit_message="first", tags={"owner": "me"})
    assert (made["version"], made["aliases"], made["variables"]) == (1, ["production"], ["question"])
    second = client.post("/prompts/life/versions", json={"template": "Two: {{question}}"}).json()
    assert (second["version"], second["aliases"]) == (2, [])  # nobody has evaluated it
    refused(client.put("/prompts/life/aliases/production", json={"version": 2}), 409, "has not passed the gate")
    theirs.set_prompt_version_tag("life", "2", "gate.decision", "passed")  # as the orchestrator's gate does
    moved = client.put("/prompts/life/aliases/production", json={"version": 2}).json()
    assert moved["aliases"] == ["production"] and moved["tags"]["production.former"] == "1"
    third = client.post("/prompts/life/versions", json={"template": "{{question}}", "force": True}).json()
    assert third["aliases"] == ["production"] and third["tags"]["gate.forced"] == "true"
    assert client.post("/prompts/life/rollback").json()["version"] == 2
    assert theirs.get_prompt_version_by_alias("life", "production").version == 2
    refused(client.delete("/prompts/life", params={"version": 2}), 409, "is in production")
    refused(client.delete("/prompts/life"), 409, "is in production")
    assert client.delete("/prompts/life", params={"version": 1}).status_code == 204
    assert [v["version"] for v in client.get("/prompts/life/versions").json()["versions"]] == [3, 2]
    listed = {prompt["name"]: prompt for prompt in client.get("/prompts").json()["prompts"]}
    assert listed["life"]["aliases"] == {"previous": 3, "production": 2} and listed["life"]["newest"] == 3
    assert listed["life"]["tags"]["owner"] == "me"
    assert client.delete("/prompts/life", params={"force": True}).status_code == 204
    refused(client.get("/prompts/life"), 404, "no prompt 'life'")


def test_what_mlflow_wrote_is_read_and_the_other_way_round(client, theirs):
    theirs.register_prompt("theirs", "{{question}} in {{language}}", commit_message="by MLflow", tags={"k": "v"})
    theirs.set_prompt_alias("theirs", "staging", 1)
    found = client.get("/prompts/theirs", params={"alias": "staging"}).json()
    assert (found["template"], found["commit_message"], found["tags"]) == (
        "{{question}} in {{language}}",
        "by MLflow",
        {"k": "v"},
    )
    assert found["variables"] == ["question", "language"]
    create(client, "ours", '{"a": {"b": {{question}} } }', commit_message="why")
    version = theirs.load_prompt("prompts:/ours@production", cache_ttl_seconds=0)
    assert (version.template, version.commit_message) == ('{"a": {"b": {{question}} } }', "why")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"name": "bad", "template": "a {{b"}, 400, "unclosed {{"),
        ({"name": "bad", "template": "{{a-b}}"}, 400, "is no variable"),
        ({"name": "bad", "template": "a", "tags": {"mlflow.prompt.text": "x"}}, 400, "meaning of its own"),
        ({"name": "a b", "template": "a"}, 422, "name"),
        ({"name": "bad", "template": ""}, 422, "template"),
        ({"name": "bad", "template": "a", "alias": "x"}, 422, "alias"),
    ],
)
def test_what_nobody_could_use_is_refused(client, body, status, said):
    refused(client.post("/prompts", json=body), status, said)
    refused(client.get("/prompts/bad"), 404, "no prompt 'bad'")


def test_a_prompt_is_made_once(client):
    create(client, "once", "{{question}}")
    refused(client.post("/prompts", json={"name": "once", "template": "other"}), 409, "already")
    refused(client.post("/prompts/once/rollback"), 409, "before the one in production")
    refused(client.put("/prompts/once/aliases/x", json={"version": 9}), 404, "no version 9")
    refused(client.post("/prompts/never/versions", json={"template": "x"}), 404, "no prompt 'never'")


def test_a_prompt_that_a_killed_server_made_is_put_in_production_by_the_same_request(client, theirs):
    theirs.register_prompt("half", "{{question}}")
    refused(client.post("/prompts", json={"name": "half", "template": "other"}), 409, "already")
    made = create(client, "half", "{{question}}")
    assert (made["version"], made["aliases"]) == (1, ["production"])


def test_while_another_program_moves_the_aliases_nothing_is_moved(client, theirs, monkeypatch):
    monkeypatch.setattr(alias_moves, "PATIENCE_S", 0.1)
    create(client, "moving", "One: {{question}}")
    client.post("/prompts/moving/versions", json={"template": "Two: {{question}}", "force": True})
    claim = {"host": "elsewhere", "pid": 1, "started": "", "until_ms": int(time.time() * 1000) + 60_000, "note": {}}
    theirs.set_prompt_tag("moving", "lifecycle.lease.theirs", json.dumps(claim))
    refused(client.post("/prompts/moving/rollback"), 409, "Another command moves these aliases at this moment")
    third = {"template": "Three: {{question}}", "force": True}
    refused(client.post("/prompts/moving/versions", json=third), 409, "process 1 on elsewhere")
    listed = {prompt["name"]: prompt for prompt in client.get("/prompts").json()["prompts"]}
    assert listed["moving"]["aliases"] == {"previous": 1, "production": 2} and listed["moving"]["tags"] == {}
    theirs.set_prompt_tag("moving", "lifecycle.lease.theirs", json.dumps(claim | {"until_ms": 0}))
    assert client.post("/prompts/moving/rollback").json()["version"] == 1


def test_a_running_server_follows_a_rollback(client):
    """The acceptance test: within the refresh time, without a restart; each answer says which it was."""

    def answered() -> tuple[str, str, str]:
        response = client.post("/ask", json={"question": "Q"})
        body, headers = response.json(), response.headers
        assert (body["prompt"], body["prompt_source"]) == (headers["x-prompt-version"], headers["x-prompt-source"])
        return body["answer"], body["prompt"], body["prompt_source"]

    assert answered() == ("own: Q", "live-qa/1", "model")
    create(client, "live-qa", "First: {{question}}")
    wait_until(lambda: answered() == ("First: Q", "live-qa/1", "live"))
    client.post("/prompts/live-qa/versions", json={"template": "Second: {{question}}", "force": True})
    wait_until(lambda: answered() == ("Second: Q", "live-qa/2", "live"))
    assert client.post("/prompts/live-qa/rollback").status_code == 200
    moved = time.monotonic()
    wait_until(lambda: answered() == ("First: Q", "live-qa/1", "live"))
    assert time.monotonic() - moved < 15  # 0.5 s and two look-ups; on a busy machine these take seconds
    info = client.get("/model/info").json()
    assert (info["prompt"], info["prompt_in_use"], info["prompt_source"]) == ("live-qa/1", "live-qa/1", "live")
    with client.stream("POST", "/ask/stream", json={"question": "Q"}) as stream:
        assert stream.headers["x-prompt-source"] == "live" and "First: Q" in stream.read().decode()
    chat = client.post("/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "Q"}]})
    assert chat.json()["choices"][0]["message"]["content"] == "First: Q" and chat.headers["x-prompt-source"] == "live"
    text = client.post("/v1/completions", json={"model": "m", "prompt": "Once"})
    assert text.status_code == 200 and text.headers["x-prompt-source"] == "model"  # it has no prompt around it
    history = client.post("/ask", json={"question": "Q", "history": ["a", "b"]}).json()
    assert history["answer"] == "own: Q"  # later turns speak for themselves


@pytest.mark.parametrize("question", ODD)
def test_a_question_reaches_the_model_as_it_was_written(client, question):
    if client.get("/prompts/odd").status_code == 404:
        create(client, "odd", '{"a": {}} {{language}}: {{question}}')
    body = {"question": question, "prompt_name": "odd", "variables": {"language": "{{question}}"}}
    assert client.post("/ask", json=body).json()["answer"] == f'{{"a": {{}}}} {{{{question}}}}: {question}'


def test_a_caller_names_a_prompt(client):
    create(client, "named", "One: {{question}}")
    client.post("/prompts/named/versions", json={"template": "Text: {{text}}"})
    client.put("/prompts/named/aliases/text", json={"version": 2})

    def ask(**body) -> tuple[str, str, str]:
        found = client.post("/ask", json=body)
        assert found.status_code == 200, found.text
        return found.json()["answer"], found.headers["x-prompt-version"], found.headers["x-prompt-source"]

    assert ask(question="Q", prompt_name="named") == ("One: Q", "named/1", "named")
    wanted = ("Text: T", "named/2", "named")
    assert ask(prompt_name="named", prompt_version=2, variables={"text": "T"}) == wanted
    assert ask(prompt_name="named", prompt_alias="text", variables={"text": "T"}) == wanted
    batch = client.post(
        "/ask/batch",
        json={"questions": [{"question": "Q", "prompt_name": "named"}, {"question": "Q", "prompt_name": "nobody"}]},
    ).json()
    assert batch["answers"][0]["answer"]["prompt"] == "named/1" and batch["failed"] == 1
    assert batch["answers"][1]["error"]["code"] == "prompt_not_found"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"question": "Q", "prompt_name": "nobody"}, 404, "no prompt 'nobody'"),
        ({"question": "Q", "prompt_name": "wrong", "prompt_version": 7}, 404, "no version 7"),
        ({"question": "Q", "prompt_name": "wrong", "prompt_alias": "x"}, 404, "no alias 'x'"),
        ({"question": "Q", "prompt_name": "wrong"}, 400, "missing text; unknown question"),
        ({"variables": {"text": "T", "other": "x"}, "prompt_name": "wrong"}, 400, "unknown other"),
        ({"question": "Q", "variables": {"text": "T"}}, 400, "Variables are for a prompt that is named"),
        ({"prompt_name": "wrong"}, 422, "question: Field required"),
        ({"question": "Q", "prompt_name": "wrong", "prompt_alias": "x", "prompt_version": 1}, 400, "Both"),
        ({"question": "Q", "prompt_name": "a/b"}, 422, "prompt_name"),
        ({"question": "Q", "history": ["a", "b"], "prompt_name": "wrong"}, 400, "first question"),
    ],
)
def test_a_wrong_choice_is_a_sentence(client, body, status, said):
    if client.get("/prompts/wrong").status_code == 404:
        create(client, "wrong", "Text: {{text}}")
    refused(client.post("/ask", json=body), status, said)


@pytest.mark.parametrize("keys", [{"admin_keys": ()}, {"api_keys": (KEY,), "admin_keys": ("another-key-1",)}])
def test_without_an_admin_key_prompts_are_read_only(tmp_path, keys):
    with served(model_uri=str(tmp_path), **keys) as reader:
        calls = [("POST", "/prompts"), ("DELETE", "/prompts/a"), ("POST", "/prompts/a/versions")]
        for method, path in [*calls, ("POST", "/prompts/a/rollback"), ("PUT", "/prompts/a/aliases/b")]:
            for body in ({"json": {"name": "a", "template": "x"}}, {"content": b"no json"}, {}):
                refused(reader.request(method, path, **body), 403, "ADMIN_KEYS")
        for path in ("/prompts", "/prompts/a", "/prompts/a/versions"):
            refused(reader.get(path), 409, "no prompt registry")


def test_a_server_without_a_registry_says_so(tmp_path):
    with served(model_uri=str(tmp_path)) as bundle:
        refused(bundle.get("/prompts"), 409, "no prompt registry")
        refused(bundle.post("/ask", json={"question": "Q", "prompt_name": "qa"}), 409, "no prompt registry")
        response = bundle.post("/ask", json={"question": "Q"})
        assert response.status_code == 200 and response.headers["x-prompt-source"] == "model"


def test_a_server_without_its_mlflow_answers_as_fast_as_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = f"http://127.0.0.1:{free_port()}"
    with served(tracking_uri=dead, prompt_refresh_s=0.1, prompt_file=str(tmp_path / "p.json")) as client:
        for _ in range(5):
            response = client.post("/ask", json={"question": "Q"})
            assert (response.json()["answer"], response.headers["x-prompt-source"]) == ("own: Q", "model")
        refused(client.get("/prompts"), 503, "MLflow")
        refused(client.post("/ask", json={"question": "Q", "prompt_name": "qa"}), 503, "MLflow")


def test_a_model_that_takes_no_prompts_keeps_its_own(tmp_path):
    class Old(Recorder):
        takes_prompts = False

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.MlflowClient(uri, uri).register_prompt("live-qa", "Live: {{question}}")
    mlflow.MlflowClient(uri, uri).set_prompt_alias("live-qa", "production", 1)
    file = tmp_path / "prompt.json"
    with served(Old(), tracking_uri=uri, prompt_refresh_s=0.1, prompt_file=str(file)) as client:
        wait_until(file.exists)  # it was looked up
        response = client.post("/ask", json={"question": "Q"})
        assert (response.json()["answer"], response.json()["prompt_source"]) == ("own: Q", "model")
        refused(client.post("/ask", json={"question": "Q", "prompt_name": "live-qa"}), 409, "its own prompt only")
