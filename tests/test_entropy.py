"""Entropy coding: exact for any codes and any prior, near the entropy, and safe with any bytes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import zoo
from zoo.assemblies import TokenPrior
from zoo.bitstream import TokenReader, TokenWriter
from zoo.cli.group import cli
from zoo.data import write_video
from zoo.entropy import LARGEST_TABLE, PriorCoder, StaticCoder, factors_of
from zoo.errors import DataError, WeightsError, ZooError
from zoo.outputs import Tokens
from zoo.token_header import header_for
from zoo.windows import encode_video


def codes_of(shape: tuple[int, ...], size: int, seed: int, *, still: float = 0.0) -> NDArray[np.int64]:
    """Draw codes of unequal odds, of which a share stays as it was a frame before."""
    source = np.random.default_rng(seed)
    codes_qthw = (source.random(shape) ** 3 * size).astype(np.int64)
    for t in range(1, shape[1]):
        stays = source.random(codes_qthw[:, t].shape) < still
        codes_qthw[:, t] = np.where(stays, codes_qthw[:, t - 1], codes_qthw[:, t])
    return codes_qthw


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([2, 5, 512, LARGEST_TABLE, LARGEST_TABLE + 1, 64_000, 2**18, 2**40]),
    pieces=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    q=st.integers(1, 3),
    hw=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    still=st.sampled_from([0.0, 0.7, 1.0]),
    seed=st.integers(0, 9),
)
def test_codes_come_back_piece_by_piece(
    size: int, pieces: list[int], q: int, hw: tuple[int, int], still: float, seed: int
) -> None:
    factors = factors_of(size)
    assert math.prod(factors) >= size
    assert max(factors) <= LARGEST_TABLE
    writer, reader = (StaticCoder(size, q, factors) for _ in range(2))
    for index, t in enumerate(pieces):
        codes = codes_of((q, t, *hw), size, seed + index, still=still)
        kept = codes.copy()
        payload = writer.encode(codes)
        assert np.array_equal(codes, kept)
        assert np.array_equal(reader.decode(payload, codes.shape), kept)


def test_levels_stay_whole() -> None:
    assert factors_of(64_000, (8, 8, 8, 5, 5, 5)) == (512, 125)
    assert factors_of(2**18) == (512, 512)
    assert factors_of(1000, (8, 5, 5, 5)) == (1000,)


def test_it_gets_near_the_entropy_and_finds_what_stands_still() -> None:
    source = np.random.default_rng(0)
    odds = np.arange(1, 65) ** 2.0
    odds /= odds.sum()
    codes = source.choice(64, (1, 20, 32, 32), p=odds)
    entropy = -(odds * np.log2(odds)).sum() * codes.size
    coder = StaticCoder(64, 1, (64,))
    bits = 8 * len(coder.encode(codes))
    assert entropy < bits < 1.06 * entropy
    still = np.repeat(codes[:, :1], 20, axis=1)
    assert 8 * len(StaticCoder(64, 1, (64,)).encode(still)) < 1.2 * entropy / 20
    # Codes that change all at once, as at a cut, are soon learnt anew.
    assert 8 * len(coder.encode((codes + 32) % 64)) < 1.1 * entropy


def test_bytes_are_the_same_with_every_release() -> None:
    # A file has to be read by any later zoo and any later constriction.
    codes = codes_of((1, 3, 4, 4), 100, 0, still=0.5)
    payload = bytes.fromhex(GOLDEN)
    assert StaticCoder(100, 1, (100,)).encode(codes) == payload
    assert np.array_equal(StaticCoder(100, 1, (100,)).decode(payload, codes.shape), codes)


@settings(max_examples=150, deadline=None)
@given(payload=st.binary(max_size=80), size=st.sampled_from([2, 500, 2**18 - 5]))
def test_any_bytes_are_codes_or_an_error(payload: bytes, size: int) -> None:
    try:
        codes = StaticCoder(size, 1, factors_of(size)).decode(payload, (1, 3, 5, 5))
    except DataError:
        return
    assert codes.shape == (1, 3, 5, 5)
    assert 0 <= codes.min() <= codes.max() < size


def build_prior(seed: int = 0, **generator: object) -> TokenPrior:
    """Build a small prior that has opinions: its weights are larger than those training starts from."""
    prior = zoo.build(
        "vqvae-prior-video-tiny",
        seed=seed,
        clip={"height": 32, "width": 32},
        generator={"use": "gpt", "hidden_dim": 24, "num_layers": 1, "num_heads": 2, **generator},
    )
    assert isinstance(prior, TokenPrior)
    source = torch.Generator().manual_seed(seed)
    for weight in prior.generator.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.3, generator=source)
    return prior.eval()


@pytest.mark.parametrize("generator", [{}, {"factors": 2}, {"positions": "learned"}])
def test_a_prior_codes_what_it_foresees(generator: dict[str, object]) -> None:
    prior = build_prior(**generator)
    size, (_, h, w) = prior.generator.codebook_size, prior.generator.grid_thw
    pieces = [codes_of((1, t, h, w), size, t) for t in (1, 3, 2)]
    writer, reader = PriorCoder(prior, restart=False), PriorCoder(prior, restart=False)
    payloads = [writer.encode(piece) for piece in pieces]
    for piece, payload in zip(pieces, payloads, strict=True):
        assert np.array_equal(reader.decode(payload, piece.shape), piece)
    # What it pays is what the prior's own loss says.
    first = torch.from_numpy(np.concatenate(pieces[:2], axis=1))[None]
    with torch.no_grad():
        bits = float(prior.generator.loss(first)) / math.log(2) * first.numel()
    if prior.generator.digits.num == 1:
        assert sum(8 * (len(payload) - 4) for payload in payloads[:2]) == pytest.approx(
            bits, rel=0.02, abs=64
        )
    damaged = bytearray(payloads[0])
    damaged[9] ^= 16
    with pytest.raises(DataError):
        PriorCoder(prior, restart=False).decode(bytes(damaged), pieces[0].shape)
    assert next(prior.generator.parameters()).dtype == torch.float32


def test_windows_do_not_go_on_from_each_other() -> None:
    prior = build_prior()
    h, w = prior.generator.grid_thw[1:]
    codes = codes_of((1, 2, h, w), prior.generator.codebook_size, 0)
    coder = PriorCoder(prior, restart=True)
    assert coder.encode(codes) == coder.encode(codes)


def test_a_file_names_its_prior(tmp_path: Path) -> None:
    prior, other = build_prior(), build_prior(1)
    # The same tokenizer with another prior.
    other.tokenizer.load_state_dict(prior.tokenizer.state_dict())
    model, path = prior.tokenizer, tmp_path / "x.zoo"
    header = header_for(model, size_HW=(32, 32), fps=10, prior=prior)
    frames = (torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1).unbind()
    pieces = list(encode_video(model, frames))
    with TokenWriter(path, header, prior=prior) as writer:
        for tokens in pieces:
            writer.write(tokens)
    with TokenReader(path) as reader:
        with pytest.raises(ZooError, match="--prior FOLDER"):
            reader.check(model)
        with pytest.raises(WeightsError, match="made with the prior vqvae-prior-video-tiny"):
            reader.check(model, other)
        reader.check(model, prior)
        again = list(reader)
    for a, b in zip(again, pieces, strict=True):
        assert a.indices_Bqthw is not None
        assert torch.equal(a.indices_Bqthw, b.indices_Bqthw)  # type: ignore[arg-type]
    with pytest.raises(ZooError, match="trained on frames of 32x32"):
        header_for(model, size_HW=(64, 64), fps=10, prior=prior)
    with pytest.raises(WeightsError, match="prior of the codes of a tokenizer"):
        header_for(build_prior(2).tokenizer, size_HW=(32, 32), fps=10, prior=prior)
    with pytest.raises(ZooError, match="needs a prior"):
        header_for(model, size_HW=(32, 32), fps=10, coder="prior")


def test_a_piece_too_large_is_told_before_it_is_coded(tmp_path: Path) -> None:
    prior = build_prior()
    header = header_for(prior.tokenizer, size_HW=(32, 32), fps=10, prior=prior)
    codes = torch.zeros(1, 1, 5000, 4, 4, dtype=torch.int64)
    with (
        pytest.raises(DataError, match="--coder packed"),
        TokenWriter(tmp_path / "x.zoo", header, prior=prior) as writer,
    ):
        writer.write(Tokens(None, codes, (20_000, 32, 32)))
    assert list(tmp_path.iterdir()) == []


def test_commands_take_a_prior(tmp_path: Path) -> None:
    prior = build_prior()
    tokenizer = zoo.build("zoo-causal-video-tiny-1k", clip={"height": 32, "width": 32})
    tokenizer.load_state_dict(prior.tokenizer.state_dict())  # type: ignore[attr-defined]
    model, own = zoo.save(tokenizer, tmp_path / "model"), zoo.save(prior, tmp_path / "prior")
    write_video(tmp_path / "in.mp4", torch.rand(3, 9, 32, 32) * 2 - 1, 10)

    def run(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(cli, [str(word) for word in words])
        return done.exit_code, done.output

    code, said = run("encode", model, tmp_path / "in.mp4", tmp_path / "x.zoo", "--prior", own)
    assert code == 0, said
    assert "(prior)" in said
    assert f"--prior {own}" in said
    code, said = run("decode", model, tmp_path / "x.zoo", tmp_path / "out.mp4")
    assert (code, "give the same one" in said) == (1, True), said
    code, said = run("decode", model, tmp_path / "x.zoo", tmp_path / "out.mp4", "--prior", model)
    assert (code, "no prior over tokens" in said) == (2, True), said
    code, said = run("decode", model, tmp_path / "x.zoo", tmp_path / "out.mp4", "--prior", own)
    assert code == 0, said
    code, said = run("encode", model, tmp_path / "in.mp4", tmp_path / "y.zoo", "--coder", "prior")
    assert (code, "--prior" in said) == (1, True), said


GOLDEN = "36a70540fa01ed8fe437d9f795762dae4e52bfa325ea07659b4367768cef2266"
