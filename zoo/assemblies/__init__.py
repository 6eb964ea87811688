"""Assemblies: how parts are wired into a model. They hold no parameters beyond stated projections."""

from zoo.assemblies.autoencoder import Autoencoder, Reconstructed
from zoo.assemblies.base import Assembly
from zoo.assemblies.gan import Gan

__all__ = ["Assembly", "Autoencoder", "Gan", "Reconstructed"]
