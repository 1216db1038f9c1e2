"""The device that a computation runs on."""

import logging
import os
import socket

import torch

from pipeline.errors import ConfigError


def choose_device(wanted: str, local_rank: int = 0, *, label: str = "") -> torch.device:
    """Turn a study's `device` into a torch device: cpu, cuda, or auto, which takes a GPU where there is one.

    Processes of a node share its GPUs in turn, by their `local_rank`. Messages on a missing GPU begin with `label`; if
    "cuda" is wanted, it is a ConfigError.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if wanted == "auto" and not torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        though = f", though the job was given {given} and torch is {torch.__version__}" if given else ""
        logging.getLogger(__name__).info(
            "%sdevice auto: no usable GPU on %s%s; computing on its CPU",
            f"{label}: " if label else "",
            socket.gethostname(),
            though,
        )
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for and this node has no usable GPU; use 'auto' or 'cpu'")
    return torch.device("cuda", local_rank % torch.cuda.device_count())
