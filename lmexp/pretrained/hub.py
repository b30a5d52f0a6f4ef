"""Weights by their id on the Hugging Face hub."""

from pathlib import Path

from lmexp.errors import UserError

_FILES = ["config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer.json"]


def download(hub_id: str) -> Path:
    """Return the folder of a hub id, downloaded unless the hub's own cache has it.

    Raises:
        UserError: neither a folder nor an id of the hub, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_FILES))
    except HFValidationError as error:
        raise UserError(
            f"{hub_id} is neither a folder nor a hub id: give a folder that exists, or an id such as "
            "openai-community/gpt2."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{hub_id} is not a folder, and the hub has no such model, or none that it shows you: check the name."
        ) from error
    except OSError as error:  # all of the hub's errors are, be it the network or the disk
        why = "the hub cannot be reached" if isinstance(error, LocalEntryNotFoundError) else error
        raise UserError(
            f"{hub_id} is not a folder, and cannot be downloaded ({why}): check the name and the network, or give the "
            "folder of a copy."
        ) from error
