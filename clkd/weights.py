"""Weights from files, read without running anything that is in them."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from clkd.errors import UserError, one_line


def read_weights(file: Path) -> dict[str, Tensor]:
    """A state dict, saved as safetensors or by `torch.save`, with its tensors on the CPU.

    Raises:
        UserError: the file cannot be read, or is a pickle that holds more than tensors, which is never executed.
    """
    try:
        state = _loaded(file)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} cannot be read as a state dict: it is a pickle of something else or with code in it, which is not "
            f"run; save `model.state_dict()`, or safetensors"
        ) from error
    except Exception as error:  # torch.load raises many kinds for a bad file; all mean the same to the user
        reason = one_line(str(error).partition("\n")[0], 200) or type(error).__name__
        raise UserError(f"{file} cannot be read as a state dict: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no state dict: save `model.state_dict()`, or safetensors")
    return state


def _loaded(file: Path) -> object:
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)
