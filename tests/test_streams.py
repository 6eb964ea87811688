"""Streams: any plan of pieces gives what one shot gives, and a stream outlives its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo.assemblies import Autoencoder, StreamDecoder, StreamEncoder
from zoo.discovery import catalogue
from zoo.errors import PortError, WeightsError, ZooError
from zoo.outputs import Tokens

QUICK = ["cosmos-video-cv4x8x8-tiny", "cosmos-video-dv4x8x8-tiny", "zoo-causal-video-tiny"]
"""A continuous and a discrete one with a lead frame, and one without."""
SLOW = sorted(name for name in catalogue().recipes if name.endswith("-video-tiny") and name not in QUICK)


@pytest.fixture(
    scope="module", params=[*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def model(request: pytest.FixtureRequest) -> Autoencoder:
    built = zoo.build(request.param, seed=0).eval()
    if not isinstance(built, Autoencoder) or not built.causal:
        pytest.skip(f"{request.param} looks ahead, or makes clips of nothing: it has no streams")
    return built


def clip(num_frames: int, *, batch: int = 1, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.rand(batch, 3, num_frames, side, side + 8, generator=generator) * 2 - 1


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


def encode_in_pieces(encoder: StreamEncoder, x: Tensor, plan: list[int]) -> list[Tokens]:
    pieces = [encoder.push(piece) for piece in torch.split(x, plan, 2)]
    return [tokens for tokens in (*pieces, encoder.flush()) if tokens is not None]


def decode_in_pieces(decoder: StreamDecoder, tokens: Tokens, plan: list[int], stride: int) -> Tensor:
    """Cut the tokens of a whole clip to pieces of so many latent frames."""
    assert tokens.z_BDthw is not None
    left = tokens.size_THW[0]
    made: list[Tensor] = []
    for z in torch.split(tokens.z_BDthw, plan, 2):
        first = decoder.model.lead_frame and not made
        num = min(left, z.shape[2] * stride - (stride - 1 if first else 0))
        made.append(decoder.push(Tokens(z, None, (num, *tokens.size_THW[1:]))))
        left -= num
    return torch.cat(made, 2)


@st.composite
def plans(draw: st.DrawFn) -> list[int]:
    return draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))


@settings(max_examples=5, deadline=None)
@given(plan=plans(), decoder_plan=st.lists(st.integers(1, 3), min_size=1, max_size=9))
def test_any_plan_of_pieces_equals_one_shot(
    model: Autoencoder, plan: list[int], decoder_plan: list[int]
) -> None:
    x = clip(sum(plan))
    with torch.no_grad():
        try:
            whole = model.encode(x)
        except PortError as error:  # longer than what a part with learned positions takes
            assume("learned positions" not in str(error))
            raise
        y = model.decode(whole)
    pieces = encode_in_pieces(model.stream_encoder(), x, plan)
    assert sum(tokens.size_THW[0] for tokens in pieces) == sum(plan)
    assert whole.z_BDthw is not None
    z = torch.cat([tokens.z_BDthw for tokens in pieces if tokens.z_BDthw is not None], 2)
    if whole.indices_Bqthw is None:
        assert close(z, whole.z_BDthw)
    else:
        indices = [tokens.indices_Bqthw for tokens in pieces if tokens.indices_Bqthw is not None]
        assert torch.equal(torch.cat(indices, 2), whole.indices_Bqthw)
    t = whole.z_BDthw.shape[2]
    cuts = [n for n in decoder_plan if n] * t
    while sum(cuts) > t:
        cuts[-1] -= 1
        cuts = [n for n in cuts if n]
    assert close(decode_in_pieces(model.stream_decoder(), whole, cuts, model.stride[0]), y)


def test_streams_over_one_model_do_not_meet(model: Autoencoder) -> None:
    a, b = clip(9), clip(11)
    first, second = model.stream_encoder(), model.stream_encoder()
    made: list[list[Tokens | None]] = [[], []]
    for i in range(3):
        made[0].append(first.push(a[:, :, 3 * i : 3 * i + 3]))
        made[1].append(second.push(b[:, :, 4 * i : 4 * i + 4]))
    for x, stream, pieces in ((a, first, made[0]), (b, second, made[1])):
        z = torch.cat([tokens.z_BDthw for tokens in [*pieces, stream.flush()] if tokens], 2)  # type: ignore[misc]
        with torch.no_grad():
            whole = model.encode(x).z_BDthw
        assert whole is not None
        assert close(z, whole)


RESUME = """
import sys, torch, zoo
from safetensors.torch import load_file, save_file
from zoo.assemblies import StreamDecoder, StreamEncoder
name, folder = sys.argv[1:]
model = zoo.build(name, seed=0).eval()
x = load_file(f"{folder}/x.safetensors")["x"]
encoder = StreamEncoder.load(model, f"{folder}/encoder.safetensors")
decoder = StreamDecoder.load(model, f"{folder}/decoder.safetensors")
made = [decoder.push(t) for t in (encoder.push(x[:, :, 6:]), encoder.flush()) if t is not None]
save_file({"y": torch.cat(made, 2)}, f"{folder}/y.safetensors")
"""


def test_a_saved_stream_goes_on_in_another_process(model: Autoencoder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    x = clip(14)
    save_file({"x": x}, tmp_path / "x.safetensors")
    encoder, decoder = model.stream_encoder(), model.stream_decoder()
    tokens = encoder.push(x[:, :, :6])
    assert tokens is not None
    start = decoder.push(tokens)
    encoder.save(tmp_path / "encoder.safetensors")
    decoder.save(tmp_path / "decoder.safetensors")
    subprocess.run([sys.executable, "-c", RESUME, model.name, str(tmp_path)], check=True)
    y = torch.cat([start, load_file(tmp_path / "y.safetensors")["y"]], 2)
    with torch.no_grad():
        assert close(y, model.decode(model.encode(x)))


def test_a_failed_piece_leaves_the_stream_as_it_was() -> None:
    model = zoo.build("cosmos-video-dv4x8x8-tiny", seed=0).eval()
    assert isinstance(model, Autoencoder)
    x = clip(9)
    stream = model.stream_encoder()
    stream.push(x[:, :, :5])
    before = stream.state()
    for bad, complaint in ((x[:, :, :, :16], "takes clips of"), (x[0], "expected a float tensor")):
        with pytest.raises(ZooError, match=complaint):
            stream.push(bad)
    model.encoder.conv_out[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stream.push(x[:, :, 5:])
    after = stream.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_compiled_part_streams_too() -> None:
    model = zoo.build("zoo-causal-video-tiny", seed=0).eval()
    assert isinstance(model, Autoencoder)
    x = clip(12)
    with torch.no_grad():
        wanted = model.encode(x).z_BDthw
        model.encoder.compile(backend="eager")
        model.encode(x)
    pieces = encode_in_pieces(model.stream_encoder(), x, [4, 4, 4])
    z = torch.cat([tokens.z_BDthw for tokens in pieces if tokens.z_BDthw is not None], 2)
    assert wanted is not None
    assert close(z, wanted)


def test_what_cannot_stream_says_so(tmp_path: Path) -> None:
    looks_ahead = zoo.build("vqvae-video-tiny", seed=0).eval()
    assert isinstance(looks_ahead, Autoencoder)
    with pytest.raises(ZooError, match=r"encoder 'videogpt' looks ahead.*reconstruct_video"):
        looks_ahead.stream_encoder()
    model = zoo.build("cosmos-video-dv4x8x8-tiny", seed=0)
    assert isinstance(model, Autoencoder)
    with pytest.raises(ZooError, match="training mode"):
        model.train().stream_decoder()
    stream = model.eval().stream_encoder()
    stream.push(clip(3))
    stream.save(tmp_path / "stream.safetensors")
    other = zoo.build("cosmos-video-dv4x8x8-tiny", seed=1).eval()
    assert isinstance(other, Autoencoder)
    with pytest.raises(WeightsError, match="holds a stream of"):
        StreamEncoder.load(other, tmp_path / "stream.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "stream.safetensors").read_bytes()[:-9])
    with pytest.raises(WeightsError, match="not a saved stream"):
        StreamEncoder.load(model, tmp_path / "cut.safetensors")
    stream.flush()
    with pytest.raises(ZooError, match="was flushed"):
        stream.push(clip(3))
