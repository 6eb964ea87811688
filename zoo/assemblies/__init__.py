"""Assemblies: how parts are wired into a model. They hold no parameters beyond stated projections."""

from zoo.assemblies.autoencoder import Autoencoder, Reconstructed
from zoo.assemblies.base import Assembly
from zoo.assemblies.gan import Gan
from zoo.assemblies.latent_gan import LatentGan
from zoo.assemblies.streams import StreamDecoder, StreamEncoder

ASSEMBLIES: dict[str, type[Assembly]] = {
    "autoencoder": Autoencoder,
    "gan": Gan,
    "latent-gan": LatentGan,
}
"""The assemblies by the name that a recipe gives."""

__all__ = [
    "ASSEMBLIES",
    "Assembly",
    "Autoencoder",
    "Gan",
    "LatentGan",
    "Reconstructed",
    "StreamDecoder",
    "StreamEncoder",
]
