"""Conversion: weights published elsewhere become a model folder, with an account of every tensor.

    from zoo.converting import convert

    done = convert("vqgan_imagenet_f16_1024.ckpt", "vqgan-image-f16", "models/vqgan")
    print(done.folder, len(done.mapped), done.unused)

`read_file` alone gives the tensors of any torch or safetensors file without executing anything in it.
"""

from zoo.converting.conversion import (
    Conversion,
    MappedTensor,
    PublicTensor,
    convert,
    examine,
)
from zoo.converting.files import ForeignFile, read_file

__all__ = [
    "Conversion",
    "ForeignFile",
    "MappedTensor",
    "PublicTensor",
    "convert",
    "examine",
    "read_file",
]
