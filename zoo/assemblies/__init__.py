"""Assemblies: how parts are wired into a model. They hold no parameters beyond stated projections."""

from zoo.assemblies.autoencoder import Autoencoder, Reconstructed
from zoo.assemblies.base import Assembly
from zoo.assemblies.gan import Gan
from zoo.assemblies.latent_gan import LatentGan
from zoo.assemblies.sampler import Sampler
from zoo.assemblies.streams import StreamDecoder, StreamEncoder
from zoo.assemblies.token_prior import TokenPrior

ASSEMBLIES: dict[str, type[Assembly]] = {
    "autoencoder": Autoencoder,
    "gan": Gan,
    "latent-gan": LatentGan,
    "token-prior": TokenPrior,
}
"""The assemblies by the name that a recipe gives."""

__all__ = [
    "ASSEMBLIES",
    "Assembly",
    "Autoencoder",
    "Gan",
    "LatentGan",
    "Reconstructed",
    "Sampler",
    "StreamDecoder",
    "StreamEncoder",
    "TokenPrior",
]
