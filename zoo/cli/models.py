"""Finds and loads the trained model that a command was given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import OutputExistsError, UnknownNameError
from zoo.files import refuse_existing

if TYPE_CHECKING:
    import torch

    from zoo.assemblies import Autoencoder, Sampler, TokenPrior


def use_device(name: str | torch.device | None) -> str:
    """Return the device to compute on: the one asked for, or the GPU when there is one.

    Raises:
        click.UsageError: The device does not exist here.
    """
    from zoo.devices import DeviceError, pick_device

    try:
        return str(pick_device(name))
    except DeviceError as error:
        raise click.UsageError(f"--device: {error}") from None


def load_autoencoder(reference: str, device: str | None) -> Autoencoder:
    """Load a model that reconstructs; any other is a usage error that names the right command."""
    model = load_model(reference, device)
    if not hasattr(model, "reconstruct"):
        raise click.UsageError(
            f"{reference} is a {model.recipe.assembly}: it makes videos out of noise and has no encoder. "
            f"Type: zoo sample {reference} OUT.mp4"
        )
    return model


def load_sampler(reference: str, device: str | None) -> Sampler:
    """Load a model that samples; any other is a usage error that names the right command."""
    model = load_model(reference, device)
    if not hasattr(model, "sample"):
        raise click.UsageError(
            f"{reference} is an {model.recipe.assembly}: it encodes and decodes videos and makes no "
            f"new ones. Type: zoo reconstruct {reference} IN.mp4 OUT.mp4"
        )
    return model


def load_prior(reference: str, device: str | None) -> TokenPrior:
    """Load a prior over tokens; any other model is a usage error that says what to take."""
    from zoo.assemblies import TokenPrior

    model = load_model(reference, device)
    if not isinstance(model, TokenPrior):
        raise click.UsageError(
            f"{reference} is no prior over tokens but of the assembly {model.recipe.assembly}. See: zoo list "
            '"*prior*"'
        )
    return model


def load_prior_if_given(reference: str | None, device: str | None) -> TokenPrior | None:
    """Load a prior over tokens, where one is given."""
    return None if reference is None else load_prior(reference, device)


def load_model(reference: str, device: str | None) -> Any:
    """Load the model of a model folder or run folder; the name of a recipe is told how to get weights.

    Raises:
        UnknownNameError: There is no such folder.
        WeightsError: It does not hold a whole model.
    """
    import zoo
    from zoo.discovery import catalogue

    if not Path(reference).is_dir() and "://" not in reference:
        if reference in catalogue().recipes:
            raise UnknownNameError(
                f"{reference} is a recipe and has no weights yet. Train it, then give the folder of the run: "
                f"zoo train {reference} --data FOLDER --out runs/{reference}"
            )
        raise UnknownNameError(
            f"there is no folder {reference}. Give a model folder, or the folder of a run that holds one."
        )
    return zoo.load(reference, device=use_device(device))


def check_output(path: Path, *, force: bool) -> None:
    """Refuse, before any work is done, an output that exists.

    Raises:
        OutputExistsError: It exists and `force` is off, or it is a folder.
    """
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder; give the name of a file such as {path / 'out.mp4'}")
    refuse_existing(path, force=force)
    if not path.parent.is_dir():
        raise click.UsageError(f"the folder {path.parent} does not exist. Type: mkdir -p {path.parent}")
