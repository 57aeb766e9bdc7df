"""Where weights come from: a file of the user's, the hub's cache, or the network, which nobody waits for in vain."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from clkd.errors import UserError, one_line
from clkd_timm.library import described, refuse_unknown

FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's repositories on the hub call their weights, the better one first."""
PATIENCE = 5.0
"""Seconds in which the hub has to answer at all."""


def file_of(model: str, pretrained: bool, checkpoint: str | None, base: Path) -> Path | None:
    """The file that a scenario's options mean; None where a network is to start untrained.

    Raises:
        UserError: there is no such file, or timm's own weights are neither here nor to be had now.
    """
    if checkpoint is not None:
        file = base / os.path.expanduser(checkpoint)
        if not file.is_file():
            raise UserError(f"checkpoint: the file {file} does not exist")
        return file
    return _pretrained(model) if pretrained else None


def _pretrained(model: str) -> Path:
    refuse_unknown(model)
    noted = described(model)
    instead = "name a local file by `checkpoint:`, or leave `pretrained` out"
    if not (noted.get("hf_hub_id") or noted.get("url")):
        raise UserError(f"timm has no pretrained weights for '{model}': {instead}")
    if not noted.get("hf_hub_id"):
        raise UserError(f"timm's weights for '{model}' are not on the hub: fetch {noted['url']} and {instead}")
    repository, _, revision = str(noted["hf_hub_id"]).partition("@")
    names = (noted["hf_hub_filename"],) if noted.get("hf_hub_filename") else FILES
    return _cached(repository, revision, names) or _downloaded(model, repository, revision, names, instead)


def _cached(repository: str, revision: str, names: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name, revision=revision or None) for name in names)
    return next((Path(each) for each in found if isinstance(each, str)), None)


def _downloaded(model: str, repository: str, revision: str, names: tuple[str, ...], instead: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    why = _unreachable(constants.ENDPOINT, constants.HF_HUB_OFFLINE)
    if why:
        raise UserError(f"the weights of '{model}' ({repository}) are not in the hub's cache, and {why}: {instead}")
    try:
        for name in names:
            try:
                return Path(hf_hub_download(repository, name, revision=revision or None))
            except EntryNotFoundError:
                continue
    except Exception as error:  # the hub's client raises many kinds; all mean that there are no weights
        reason = one_line(" ".join(str(error).split()), 200)
        raise UserError(f"pretrained weights of '{model}' cannot be fetched ({reason}): {instead}") from error
    raise UserError(f"{repository} has neither {' nor '.join(names)}: {instead}")


def _unreachable(address: str, offline: bool) -> str:
    """Why the hub cannot be asked, '' if it can. In a thread, since looking up a name cannot be cut short."""
    if os.environ.get("CLKD_OFFLINE") == "1":
        return "CLKD_OFFLINE=1 forbids fetching them"
    if offline:
        return "HF_HUB_OFFLINE forbids fetching them"
    said: list[Any] = []
    asking = threading.Thread(target=_ask, args=(address, said), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    if not said:
        return f"{address} does not answer within {PATIENCE:g} s"
    return f"{address} cannot be reached ({said[0]})" if said[0] else ""


def _ask(address: str, said: list[Any]) -> None:
    """Whatever the server answers will do: that it does is all that is asked."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
            said.append("")
    except urllib.error.HTTPError as error:
        error.close()
        said.append("")
    except TimeoutError:
        return
    except (OSError, ValueError) as error:
        if not isinstance(getattr(error, "reason", None), TimeoutError):
            said.append(one_line(str(getattr(error, "reason", error)), 100))
