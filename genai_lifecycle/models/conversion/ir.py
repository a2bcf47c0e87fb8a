"""A HuggingFace causal LM as a stateful OpenVINO IR, as ContinuousBatchingPipeline wants it.

One decoding step is traced with torch, converted, and its key-value cache turned into the model's own state.
What the IR's answers are worth is measured in `precision.py`, not here.
"""

from __future__ import annotations

import io
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Architectures whose answers were compared with transformers' token by token (tests/genai_lifecycle/conversion).
CONVERTED_ARCHITECTURES = ("gpt2",)
MODEL_FILE = "openvino_model.xml"
DEFAULT_GROUP = 32  # OpenVINO's, of inputs that are rounded together
# Sizes of the traced example. They differ from each other: equal ones would be folded into one constant.
_BATCH, _PAST, _QUERY = 2, 3, 4


@dataclass(frozen=True)
class _Shape:
    """What the cache of a model looks like."""

    layers: int
    heads: int
    head_width: int

    @property
    def pasts(self) -> list[str]:
        return [f"past_key_values.{i}.{part}" for i in range(self.layers) for part in ("key", "value")]

    @property
    def presents(self) -> list[str]:
        return [f"present.{i}.{part}" for i in range(self.layers) for part in ("key", "value")]


def is_covered(model_type: str) -> bool:
    """Whether checkpoints of this `model_type` can be converted."""
    return model_type in CONVERTED_ARCHITECTURES


def convert(folder: Path) -> Any:
    """The checkpoint in `folder` (safetensors, float32) as a stateful openvino.Model, weights in fp32."""
    _decline_telemetry()
    import openvino
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, attn_implementation="sdpa", dtype=torch.float32
    ).eval()
    config = model.config
    shape = _Shape(config.n_layer, config.n_head, config.n_embd // config.n_head)
    step, example = _one_step(model, shape)
    with _quiet(), torch.inference_mode():
        traced = torch.jit.trace(step, example, check_trace=False, strict=False)
        converted = openvino.convert_model(traced, example_input=example)
    _name(converted, shape)
    _make_stateful(converted, shape)
    return converted


def int8_weights(model: Any) -> Any:
    """The same model with its weights as 8-bit integers, a scale and a zero point for each output channel."""
    _decline_telemetry()
    import nncf

    with _quiet():
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


def _decline_telemetry() -> None:
    """With this package at hand OpenVINO and NNCF report to their maker, and write into the home."""
    sys.modules.setdefault("openvino_telemetry", None)


def activation_groups(config: Mapping[str, Any]) -> tuple[int, ...]:
    """How many inputs of a product may share one scale when they are rounded to 8 bits: the fastest first.

    A product with int8 weights is computed in integers. One scale for a whole row saves a fifth of the time against
    OpenVINO's default, but a row with a few very large values is rounded more coarsely by it.
    """
    width = config["n_embd"]  # every product's inputs are a multiple of it
    return (width, DEFAULT_GROUP) if width > DEFAULT_GROUP and width % DEFAULT_GROUP == 0 else (DEFAULT_GROUP,)


def with_activation_group(model: Any, group: int) -> Any:
    """The same int8 model, which says of itself that its products' inputs are rounded in groups of this size."""
    model.set_rt_info(str(group), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    return model


def save(model: Any, folder: Path) -> None:
    """Write the IR with the precision it has (OpenVINO's default would halve it without a word)."""
    import openvino

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    openvino.save_model(model, folder / MODEL_FILE, compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of every Python branch it takes, nncf reports each layer: noise, as the answers are compared."""
    loggers = [logging.getLogger(name) for name in ("nncf", "openvino")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # nncf draws a bar of its own
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


# --- the traced step ------------------------------------------------------------------------------


def _one_step(model: Any, shape: _Shape) -> tuple[Any, tuple]:
    """A module with a flat list of tensors in and out, and an example to trace it with."""
    import torch

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, position_ids, *past):
            cache = _cache_of(past)
            mask = _additive_mask(attention_mask, input_ids.shape[1])
            out = self.model(
                input_ids=input_ids, attention_mask=mask, position_ids=position_ids,
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            flat = [tensor for layer in out.past_key_values.layers for tensor in (layer.keys, layer.values)]
            return (out.logits, *flat)

    past = [torch.randn(_BATCH, shape.heads, _PAST, shape.head_width) for _ in shape.pasts]
    ids = torch.ones(_BATCH, _QUERY, dtype=torch.long)
    positions = torch.arange(_PAST, _PAST + _QUERY).repeat(_BATCH, 1)
    return Step(), (ids, torch.ones(_BATCH, _PAST + _QUERY, dtype=torch.long), positions, *past)


def _cache_of(past: tuple) -> Any:
    """transformers' cache with its layers filled by hand from (key, value, key, value, ...)."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    cache.layers = []
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values = keys, values
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        cache.layers.append(layer)
    return cache


def _additive_mask(attention_mask: Any, query: int) -> Any:
    """Causal and padding mask, (batch, 1, query, total): 0 where a token may look, the smallest float elsewhere."""
    import torch

    total = attention_mask.shape[1]
    rows = torch.arange(query, device=attention_mask.device)[:, None] + (total - query)
    causal = torch.arange(total, device=attention_mask.device)[None, :] <= rows
    allowed = causal[None, None] & attention_mask[:, None, None, :].bool()
    return torch.zeros((), dtype=torch.float32).masked_fill(~allowed, torch.finfo(torch.float32).min)


# --- names and state ------------------------------------------------------------------------------


def _name(model: Any, shape: _Shape) -> None:
    """The names and partial shapes by which the pipeline finds its inputs and outputs."""
    import openvino

    inputs = ["input_ids", "attention_mask", "position_ids", *shape.pasts]
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_node().set_friendly_name(name)
        port.get_tensor().set_names({name})
        dynamic = [-1, shape.heads, -1, shape.head_width] if name in shape.pasts else [-1, -1]
        port.get_node().set_partial_shape(openvino.PartialShape(dynamic))
    for port, name in zip(model.outputs, ["logits", *shape.presents], strict=True):
        port.get_tensor().set_names({name})
    model.validate_nodes_and_infer_types()


def _make_stateful(model: Any, shape: _Shape) -> None:
    """Past inputs and present outputs become variables that start empty and follow `beam_idx`."""
    import numpy as np
    import openvino
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    beam = ops.parameter([-1], dtype=np.int32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam])
    for port in model.inputs:
        if port.get_any_name() not in shape.pasts:
            continue
        users = port.get_target_inputs()
        gathered = ops.gather(port, beam, ops.constant(0))
        for user in users:
            user.replace_source_output(gathered.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, dict(zip(shape.pasts, shape.presents, strict=True)))
    _start_empty(model, shape, openvino, ops, np)
    model.validate_nodes_and_infer_types()


def _start_empty(model: Any, shape: _Shape, openvino: Any, ops: Any, np: Any) -> None:
    """Give every variable zeros of (rows, heads, 0, head width) to start from."""
    ids = next(port for port in model.inputs if port.get_any_name() == "input_ids")
    rows = ops.gather(ops.shape_of(ids, output_type="i64"), ops.constant([0]), ops.constant(0))
    rest = [ops.constant(np.array([size], dtype=np.int64)) for size in (shape.heads, 0, shape.head_width)]
    empty = ops.concat([rows, *rest], axis=0)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            zeros = ops.broadcast(ops.constant(0.0, dtype=np.float32), empty)
            node.set_arguments([zeros.output(0)])
