"""The same message twice: what a rollback needs survives it, and a rollback is not undone by it."""

from __future__ import annotations

import asyncio

from conftest import StandIn

from genai_server.answering.predictor import LoadedModel, Predictor
from genai_server.http.webhook import TOLERANCE_S, AliasFollower, Deliveries
from genai_server.model_info import ModelInfo


class Registry:
    """The alias names a version; `loads` says what was loaded."""

    def __init__(self):
        self.champion, self.loads = "1", []

    def resolve(self, uri: str) -> str:
        return f"models:/m/{self.champion}" if "@" in uri else uri

    def load(self, uri: str) -> LoadedModel:
        version = self.resolve(uri)[-1]
        self.loads.append(version)
        return LoadedModel(StandIn({}), ModelInfo(model="m", model_uri=uri, model_version=version))


def test_twice_the_same_move_loads_once_and_the_version_before_can_come_back():
    """Before, the second one put version 2 in the place of version 1, for which nobody could ask any more."""

    async def scenario():
        registry = Registry()
        predictor = Predictor(registry.load, "models:/m@champion", 8, registry.resolve)
        await predictor.start()
        follower = AliasFollower(predictor)
        registry.champion = "2"
        for _ in range(3):
            follower.follow()
            await follower._following
        assert registry.loads == ["1", "2"]
        assert (await predictor.rollback()).info.model_version == "1"

    asyncio.run(scenario())


def test_a_delivery_counts_once_for_as_long_as_its_signature_holds():
    deliveries = Deliveries()
    assert deliveries.is_new("a", 1000.0)
    assert not deliveries.is_new("a", 1000.0 + TOLERANCE_S)
    assert deliveries.is_new("b", 1000.0 + TOLERANCE_S)


def test_deliveries_are_forgotten_once_their_timestamp_is_refused():
    deliveries = Deliveries()
    for n in range(1000):
        deliveries.is_new(str(n), float(n))
    assert len(deliveries._seen) <= 2 * TOLERANCE_S + 1
