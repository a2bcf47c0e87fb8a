"""From a HuggingFace checkpoint to what the OpenVINO engine runs. Deploy time only: nothing here is served."""
