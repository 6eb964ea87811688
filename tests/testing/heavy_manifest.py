"""A manifest that imports torch by way of its parts."""

from good_parts import Encoder

assert Encoder
