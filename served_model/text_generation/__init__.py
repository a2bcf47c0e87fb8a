"""Questions in, answers out: the served model's parts, frozen into the MLflow artifact as a folder of files.

Reading order: `question_model` (questions and answers) -> `text_model` (text) -> `engine` (token ids), with
`torch_engine` and `openvino_engine` behind it. Nothing here knows MLflow's model format, HTTP or the orchestrator,
and every import between the files is relative: the folder is loaded under a name made from its hash
(`served_model/huggingface_model.py`), so that two versions live in one process. torch, transformers and
openvino are imported by the engine that needs them, when it starts.
"""
