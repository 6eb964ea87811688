"""Entropy coding of codes: odds that writer and reader update alike, and the range coder that uses them.

`static` learns a file's own odds as it goes: a yes or no for each code that repeats the one at its place a
latent frame before, by how many around it do, and how often each code comes where none repeats. `prior` takes
the odds from a trained prior. The coder itself is that of `constriction` (https://doi.org/10.48550/arXiv.2201.01741).

Shape legend: q codebooks, p planes (a digit of one codebook's codes), t h w the latent grid, N symbols in a
run, V symbols that are possible.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Protocol

import constriction
import numpy as np
import torch
from numpy.typing import NDArray

from zoo.errors import DataError, ZooError

if TYPE_CHECKING:
    from zoo.assemblies import TokenPrior

CODERS = ("packed", "static", "prior")
"""How codes can be stored; packed is a fixed number of bits for each."""

LARGEST_TABLE = 1 << 14
"""Codes that one table of odds may hold; larger codebooks are taken apart into digits."""

_DIGIT = 1 << 10
_LEAST_MEMORY = 1 << 9
_STEPS = 32  # to which a logit is rounded, a nat
_ONE = 1 << 22

_Ints = NDArray[np.int32]
_Transfer = Callable[[_Ints, Any], None]


class Coder(Protocol):
    """Turns the codes of a file's pieces, one after the other, to bytes, or back."""

    def encode(self, codes_qthw: NDArray[np.int64]) -> bytes:
        """Return the bytes of the next piece."""
        ...

    def decode(self, payload: bytes, shape_qthw: tuple[int, int, int, int]) -> NDArray[np.int64]:
        """Return the codes of the next piece.

        Raises:
            DataError: The bytes are not such a piece.
        """
        ...


def factors_of(codebook_size: int, levels: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the sizes of the digits, fastest first, into which codes are taken apart for tables of odds.

    Args:
        codebook_size: Codes in a codebook.
        levels: Of a quantizer whose codes count several levels, the first the fastest: digits then are whole
            levels, which are likely to have odds of their own.
    """
    if codebook_size <= LARGEST_TABLE:
        return (codebook_size,)
    if levels and math.prod(levels) == codebook_size:
        digits = [1]
        for level in levels:
            if digits[-1] * level > _DIGIT:
                digits.append(1)
            digits[-1] *= level
        return tuple(digits)
    bits = (codebook_size - 1).bit_length()
    num = -(-bits // (_DIGIT.bit_length() - 1))
    return tuple(1 << (bits * (i + 1) // num - bits * i // num) for i in range(num))


class StaticCoder:
    """Codes by odds that start even and are learnt from the file itself.

    Args:
        codebook_size: Codes in a codebook.
        num_codebooks: Codebooks.
        factors: Sizes of the digits of a code, as `factors_of` gives them.
    """

    def __init__(self, codebook_size: int, num_codebooks: int, factors: Sequence[int]) -> None:
        self._codebook_size = codebook_size
        self._factors = tuple(factors)
        self._steps = [math.prod(self._factors[:i]) for i in range(len(self._factors))]
        self._planes = [_Plane(factor) for _ in range(num_codebooks) for factor in self._factors]

    def encode(self, codes_qthw: NDArray[np.int64]) -> bytes:
        t, h, w = codes_qthw.shape[1:]
        digits = [codes_qthw // step % size for step, size in zip(self._steps, self._factors, strict=True)]
        planes_pthw = np.stack(digits, 1).reshape(-1, t, h, w).astype(np.int32)
        encoder = constriction.stream.queue.RangeEncoder()
        self._run(planes_pthw, encoder.encode)
        return _to_bytes(encoder)

    def decode(self, payload: bytes, shape_qthw: tuple[int, int, int, int]) -> NDArray[np.int64]:
        q, t, h, w = shape_qthw
        planes_pthw = np.zeros((len(self._planes), t, h, w), np.int32)
        self._run(planes_pthw, _reader(payload))
        digits = planes_pthw.reshape(q, -1, t, h, w).astype(np.int64)
        # Digits of a hostile file may make more codes than there are, but never more than fit in 63 bits.
        codes_qthw = sum(digits[:, i] * step for i, step in enumerate(self._steps))
        return _checked(np.asarray(codes_qthw), self._codebook_size)

    def _run(self, planes_pthw: _Ints, transfer: _Transfer) -> None:
        for t in range(planes_pthw.shape[1]):
            for plane, symbols_hw in zip(self._planes, planes_pthw[:, t], strict=True):
                plane.run(symbols_hw, transfer)


class PriorCoder:
    """Codes by the odds that a prior gives each, after all those before it.

    The prior runs in double precision and its logits are rounded to a grid, so that what differs between
    processors and thread counts is far below what changes the odds; every piece carries a checksum of its
    codes, which tells where that was not enough.

    Args:
        prior: A token prior whose generator has ``stream``.
        restart: Begin anew with every piece, for windows that do not go on from each other.

    Raises:
        ZooError: The prior gives no odds code by code.
    """

    def __init__(self, prior: TokenPrior, *, restart: bool) -> None:
        check_prior(prior)
        import copy

        generator: Any = copy.deepcopy(prior.generator).eval()
        device = next(generator.parameters()).device
        if device.type == "mps":  # which has no double precision
            generator = generator.cpu()
        self._generator = generator.double()
        self._device = next(generator.parameters()).device
        self._name = prior.name
        self._restart = restart
        self._stream: Any = None
        self._frames = 0

    def encode(self, codes_qthw: NDArray[np.int64]) -> bytes:
        encoder = constriction.stream.queue.RangeEncoder()
        self._run(codes_qthw.copy(), encoder.encode)
        return _checksum(codes_qthw) + _to_bytes(encoder)

    def decode(self, payload: bytes, shape_qthw: tuple[int, int, int, int]) -> NDArray[np.int64]:
        codes_qthw = np.zeros(shape_qthw, np.int64)
        self._run(codes_qthw, _reader(payload[4:]))
        if _checksum(codes_qthw) != payload[:4]:
            raise DataError(
                f"{self._name} gives other odds here than where the file was made, so that they are not its "
                "codes. Decode it with the same release of torch on the same kind of device, or encode the "
                "video anew (zoo encode --coder static depends on neither)"
            )
        return codes_qthw

    @torch.inference_mode()
    def _run(self, codes_qthw: NDArray[np.int64], transfer: _Transfer) -> None:
        num, base = self._generator.digits.num, self._generator.digits.base
        limit = self._generator.max_frames
        places = [base ** (num - 1 - factor) for factor in range(num)]
        if self._restart:
            self._stream = None
        for t in range(codes_qthw.shape[1]):
            if self._stream is None or (limit is not None and self._frames == limit):
                self._stream, self._frames = self._generator.stream(1), 0
            self._frames += 1
            given_qhw = codes_qthw[:, t].copy()
            codes_qthw[:, t] = 0
            for _ in range(num * given_qhw.size):
                symbol = self._stream.upcoming
                at = (symbol.codebook, symbol.row, symbol.column)
                digit = given_qhw[at] // places[symbol.factor] % base
                digit = self._digit(digit, transfer)
                self._stream.push(torch.tensor([digit], device=self._device))
                codes_qthw[symbol.codebook, t, symbol.row, symbol.column] += digit * places[symbol.factor]

    def _digit(self, digit: int, transfer: _Transfer) -> int:
        logits_V: NDArray[np.float64] = self._stream.logits()[0].double().cpu().numpy()
        symbol_1 = np.array([digit], np.int32)
        transfer(symbol_1, _odds(logits_V))
        # The coder leaves a chance to all; what the prior rules out is in a damaged file only.
        if logits_V[symbol_1[0]] == -np.inf:
            raise DataError("its bytes are no codes of this prior")
        return int(symbol_1[0])


def check_prior(prior: TokenPrior) -> None:
    """Refuse a prior that does not give odds code by code.

    Raises:
        ZooError: It says what is wrong.
    """
    generator = prior.generator
    if not hasattr(generator, "stream") or generator.order != "raster":
        raise ZooError(
            f"{prior.name} does not give the odds of one code after the other; a prior such as gpt does. "
            "Take one of those, or --coder static, which needs no prior"
        )
    if prior.every > 1:
        raise ZooError(
            f"{prior.name} learned 1 of {prior.every} latent frames (tokenizer.every) and has no odds for "
            "the others. Take a prior of all of them, or --coder static, which needs none"
        )
    if "frames" in generator.conditions:
        raise ZooError(f"{prior.name} is told the first frames, which a file of tokens does not hold")


class _Counts:
    """How often each symbol came so far, as odds."""

    def __init__(self, size: int, weight: int) -> None:
        self._counts = np.zeros(size, np.int64)
        self._weight = weight
        self._memory = max(size, _LEAST_MEMORY)
        self._seen = 0

    @property
    def block(self) -> int:
        """Symbols to code with the same odds before they are learnt from."""
        return max(self._seen // 16, 1)

    def model(self) -> Any:
        odds = (self._counts * self._weight + 1).astype(np.float64)
        return constriction.stream.model.Categorical(odds, perfect=False)

    def update(self, symbols_N: _Ints) -> None:
        self._counts += np.bincount(symbols_N, minlength=len(self._counts))
        self._seen += len(symbols_N)
        if self._seen >= self._memory:  # what a scene ago was likely may not be any more
            self._counts //= 2
            self._seen = int(self._counts.sum())


class _Plane:
    """One digit of one codebook, frame after frame."""

    def __init__(self, size: int) -> None:
        self._symbols = _Counts(size, 16)
        self._far = [_Counts(2, 2) for _ in range(2 * 9)]
        self._near = [_Counts(2, 2) for _ in range(2 * 5)]
        self._before_hw: _Ints | None = None
        self._repeats_hw: NDArray[np.bool_] | None = None

    def run(self, symbols_hw: _Ints, transfer: _Transfer) -> None:
        """Code a latent frame; what is read is filled in."""
        if self._before_hw is None:
            repeats_hw = np.zeros(symbols_hw.shape, np.bool_)
        else:
            repeats_hw = symbols_hw == self._before_hw
            self._code_repeats(repeats_hw, transfer)
            symbols_hw[repeats_hw] = self._before_hw[repeats_hw]
        new_N = symbols_hw[~repeats_hw]
        _code(new_N, self._symbols, transfer)
        symbols_hw[~repeats_hw] = new_N
        self._before_hw, self._repeats_hw = symbols_hw.copy(), repeats_hw

    def _code_repeats(self, repeats_hw: NDArray[np.bool_], transfer: _Transfer) -> None:
        h, w = repeats_hw.shape
        before_hw = self._repeats_hw
        assert before_hw is not None
        dark_hw = (np.arange(h)[:, None] + np.arange(w)) % 2 == 0
        # Half of the places, as on a chess board, by the frame before; then the others by those beside them.
        around = _neighbours(before_hw)
        self._code_half(repeats_hw, dark_hw, 9 * before_hw + sum(around), self._far, transfer)
        beside = _neighbours(repeats_hw & dark_hw)[:4]
        self._code_half(repeats_hw, ~dark_hw, 5 * before_hw + sum(beside), self._near, transfer)

    def _code_half(
        self,
        repeats_hw: NDArray[np.bool_],
        half_hw: NDArray[np.bool_],
        kind_hw: NDArray[np.int64],
        counts: Sequence[_Counts],
        transfer: _Transfer,
    ) -> None:
        for kind, of_kind in enumerate(counts):
            places_hw = half_hw & (kind_hw == kind)
            flags_N = repeats_hw[places_hw].astype(np.int32)
            _code(flags_N, of_kind, transfer)
            repeats_hw[places_hw] = flags_N


def _neighbours(flags_hw: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the flags of the eight places around each, the four beside it first."""
    h, w = flags_hw.shape
    padded = np.pad(flags_hw.astype(np.int64), 1)
    shifts = [(0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)]
    return [padded[y : y + h, x : x + w] for y, x in shifts]


def _code(symbols_N: _Ints, counts: _Counts, transfer: _Transfer) -> None:
    start = 0
    while start < len(symbols_N):
        part = symbols_N[start : start + counts.block]
        transfer(part, counts.model())
        counts.update(part)
        start += len(part)


def _reader(payload: bytes) -> _Transfer:
    if len(payload) % 4:
        raise DataError(f"{len(payload)} bytes are no whole number of words")
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))

    def read(part: _Ints, model: Any) -> None:
        try:
            part[:] = decoder.decode(model, len(part))
        except (AssertionError, ValueError):
            raise DataError("its bytes are no entropy-coded codes") from None

    return read


def _to_bytes(encoder: Any) -> bytes:
    words: NDArray[np.uint32] = encoder.get_compressed()
    return words.astype("<u4").tobytes()


def _checked(codes_qthw: NDArray[np.int64], codebook_size: int) -> NDArray[np.int64]:
    if codes_qthw.max(initial=0) >= codebook_size:
        raise DataError(f"code {codes_qthw.max()} of {codebook_size}")
    return codes_qthw


def _checksum(codes_qthw: NDArray[np.int64]) -> bytes:
    return zlib.crc32(codes_qthw.astype("<i8").tobytes()).to_bytes(4, "little")


def _odds(logits_V: NDArray[np.float64]) -> Any:
    largest = logits_V.max()
    if not np.isfinite(largest):
        raise ZooError("the prior gives odds that are not finite; its training has diverged")
    table = _exponentials()
    last = len(table) - 1
    steps_V = np.rint(largest * _STEPS) - np.rint(logits_V * _STEPS)
    odds_V = table[np.minimum(steps_V, last).astype(np.int64)]
    return constriction.stream.model.Categorical(odds_V, perfect=False, lazy=True)


@functools.cache
def _exponentials() -> NDArray[np.float64]:
    """Return whole numbers in proportion to exp(-i / _STEPS), the same on every processor; the last is 0."""
    context = Context(prec=30)
    num = math.ceil(math.log(_ONE) * _STEPS) + 32
    values = [round(_ONE * context.exp(-Decimal(i) / _STEPS)) for i in range(num)]
    return np.array([*values, 0], np.float64)
