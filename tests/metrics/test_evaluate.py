"""Figures of whole models: what they are, and what they must not depend on."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import zoo.metrics
from zoo.errors import DataError, ZooError
from zoo.metrics import Stopped, load_lpips, nearest_grids, psnr, ssim
from zoo.metrics.baselines import best_nearest
from zoo.outputs import Tokens

evaluate = functools.partial(zoo.metrics.evaluate, num_workers=0)


class Clips(Dataset[Any]):
    """Smooth moving gradients with some noise, the same on every call."""

    description = "moving gradients"

    def __init__(self, num: int, *, size: tuple[int, int, int, int] = (3, 4, 32, 40)) -> None:
        self.num, self.size = num, size

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict[str, Any]:
        channels, frames, height, width = self.size
        random = torch.Generator().manual_seed(index)
        slope = torch.randn(channels, 3, generator=random)
        t, h, w = torch.meshgrid(
            *(torch.linspace(-1, 1, axis) for axis in (frames, height, width)), indexing="ij"
        )
        x = torch.stack([torch.sin(2 * (a * t + b * h + c * w)) for a, b, c in slope.tolist()])
        return {
            "x_CTHW": (0.8 * x + 0.1 * torch.randn(x.shape, generator=random)).clamp(-1, 1),
            "label": -1,
            "source": f"clip {index}",
            "start_s": 0.0,
            "index": index,
            "skipped": [],
        }


class Holed(Clips):
    """Cannot read some clips, and gives the next one it can, as a data set of files does."""

    def __init__(self, num: int, *, bad: tuple[int, ...]) -> None:
        super().__init__(num)
        self.bad = bad

    def __getitem__(self, index: int) -> dict[str, Any]:
        skipped = []
        while index in self.bad:
            skipped.append((f"clip {index}", f"clip {index}: no video"))
            index = (index + 1) % self.num
        return {**super().__getitem__(index), "skipped": skipped}


class Levels(nn.Module):
    codebook_size, num_codebooks, continuous = 16, 3, False


class Tokenizer(nn.Module):
    """Means of 2x8x8 blocks in 16 levels, a codebook for each colour; its latent is spoilt on purpose."""

    name = "levels"

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = Levels()
        self.offset = nn.Parameter(torch.zeros(()))

    def encode(self, x_BCTHW: Tensor) -> Tokens:
        means = nn.functional.avg_pool3d(x_BCTHW, (2, 8, 8))
        codes = ((means + 1) / 2 * 15.99).clamp(0, 15).long()
        size = (x_BCTHW.shape[2], x_BCTHW.shape[3], x_BCTHW.shape[4])
        return Tokens(torch.full_like(means, torch.nan), codes, size)

    def decode(self, tokens: Tokens) -> Tensor:
        assert tokens.indices_Bqthw is not None
        z = tokens.indices_Bqthw if tokens.z_BDthw is None else tokens.z_BDthw
        return nn.functional.interpolate((z + 0.5) / 8 - 1 + self.offset.detach(), size=tokens.size_THW)


class Painter(nn.Module):
    """Draws noise of one strength: a GAN's public face."""

    name = "painter"

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def sample(self, num: int, *, num_frames: int | None = None, seed: int = 0) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return self.strength * torch.randn(num, 3, num_frames or 4, 32, 40, generator=random)


def test_figures_are_those_of_the_functions_and_of_the_code_numbers_alone() -> None:
    data, model = Clips(5), Tokenizer()
    result = evaluate(model, data, batch_size=2)
    x = torch.stack([data[index]["x_CTHW"] for index in range(5)])
    tokens = model.encode(x)
    y = model.decode(tokens._replace(z_BDthw=None)).clamp(-1, 1)
    frames = [z.transpose(1, 2).flatten(0, 1) for z in (x, y)]
    assert result["values"]["psnr_db"] == pytest.approx(float(psnr(x, y)), rel=1e-9)
    assert result["values"]["ssim"] == pytest.approx(float(ssim(x, y)), rel=1e-9)
    assert result["values"]["lpips"] == pytest.approx(float(load_lpips()(*frames).mean()), rel=1e-4)
    assert result["values"]["bits_per_clip"] == 3 * 2 * 4 * 5 * 4
    assert result["values"]["bits_per_pixel"] == 480 / (4 * 32 * 40)
    assert tokens.indices_Bqthw is not None
    counts = [torch.bincount(book.flatten(), minlength=16) for book in tokens.indices_Bqthw.unbind(1)]
    assert result["codebook"]["histogram"] == torch.stack(counts).tolist()
    near, grids = best_nearest(x, 480)
    assert set(grids) <= set(nearest_grids((4, 32, 40), bits=480))
    assert result["baselines"]["nearest"]["psnr_db"] == pytest.approx(float(psnr(x, near)), rel=1e-9)
    assert result["baselines"]["mean colour"]["psnr_db"] < result["values"]["psnr_db"]
    assert "from the code numbers alone" in result["protocol"]["reconstruction"]
    json.dumps(result, allow_nan=False)


def test_nothing_depends_on_the_batch_size_or_the_mode_and_nothing_is_left_behind() -> None:
    data, model = Clips(5), Tokenizer().train()
    seed = torch.get_rng_state()
    one, five = evaluate(model, data, batch_size=1), evaluate(model.eval(), data, batch_size=5)
    for who in ("values", "codebook"):
        for name, value in one[who].items():
            assert five[who][name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)
    assert one["protocol"] == five["protocol"]
    assert not model.training
    assert torch.equal(torch.get_rng_state(), seed)
    before = one["protocol"]["state_sha256"]
    with torch.no_grad():
        model.offset += 1e-3
    assert evaluate(model, data, num_clips=1)["protocol"]["state_sha256"] != before


def test_fewer_clips_are_spread_over_the_data_and_metrics_can_be_chosen() -> None:
    data, model = Clips(6), Tokenizer()
    result = evaluate(model, data, metrics=["psnr"], num_clips=3)
    x = torch.stack([data[index]["x_CTHW"] for index in (0, 2, 4)])
    y = model.decode(model.encode(x)._replace(z_BDthw=None)).clamp(-1, 1)
    assert result["values"]["psnr_db"] == pytest.approx(float(psnr(x, y)), rel=1e-9)
    assert "ssim" not in result["values"]
    assert result["baselines"] == {}
    assert (result["protocol"]["num_clips"], result["protocol"]["of_clips"]) == (3, 6)
    with pytest.raises(ZooError, match="no metric 'fvd'; choose from psnr, ssim"):
        evaluate(model, data, metrics=["fvd"])
    with pytest.raises(ZooError, match="no clip"):
        evaluate(model, Clips(0))


def test_a_clip_that_cannot_be_read_is_left_out_and_named_and_no_other_counts_twice() -> None:
    whole, model = Clips(6), Tokenizer()
    result = zoo.metrics.evaluate(model, Holed(6, bad=(1, 2)), metrics=["psnr", "codebook"], batch_size=2)
    x = torch.stack([whole[index]["x_CTHW"] for index in (0, 3, 4, 5)])
    y = model.decode(model.encode(x)._replace(z_BDthw=None)).clamp(-1, 1)
    assert result["values"]["psnr_db"] == pytest.approx(float(psnr(x, y)), rel=1e-9)
    assert result["codebook"]["num_tokens"] == 4 * 3 * 2 * 4 * 5
    protocol = result["protocol"]
    assert (protocol["num_clips"], protocol["of_clips"]) == (4, 6)
    assert protocol["skipped"] == ["clip 1: no video", "clip 2: no video"]
    few = evaluate(model, Holed(6, bad=(1,)), metrics=["psnr"], num_clips=3)["protocol"]
    assert (few["num_clips"], few["skipped"]) == (3, [])  # 0, 2 and 4
    with pytest.raises(DataError, match=r"none of the 1 clips.*clip 0: no video"):
        evaluate(model, Holed(6, bad=(0,)), num_clips=1)


def test_an_evaluation_can_be_stopped_between_batches() -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    model = Tokenizer().train()
    with pytest.raises(Stopped):
        evaluate(model, Clips(9), batch_size=1, metrics=["psnr"], stop=stop)
    assert len(asked) == 3
    assert model.training


def test_frames_too_small_for_a_metric_leave_it_out_with_the_reason() -> None:
    result = evaluate(Tokenizer(), Clips(2, size=(3, 2, 8, 24)))
    assert set(result["left_out"]) == {"ssim", "lpips"}
    assert "8x24" in result["left_out"]["ssim"]
    assert result["values"]["psnr_db"] > 0


def test_a_gan_gets_a_diversity_named_as_such() -> None:
    data = Clips(6)
    dull, lively = (evaluate(Painter(strength), data)["values"] for strength in (0.0, 0.5))
    assert dull["lpips_diversity"] == 0
    assert lively["lpips_diversity"] > 0.05
    assert dull["lpips_diversity_of_real_clips"] == lively["lpips_diversity_of_real_clips"] > 0.05
    again = evaluate(Painter(0.5), data, batch_size=1)["values"]
    assert again["lpips_diversity"] == pytest.approx(lively["lpips_diversity"], rel=1e-4)
    one, two = (evaluate(Painter(0.5), Holed(6, bad=(3,)), batch_size=size) for size in (1, 4))
    for name, value in one["values"].items():
        assert two["values"][name] == pytest.approx(value, rel=1e-4)
    assert "2 disjoint random pairs" in one["protocol"]["lpips_diversity"]
    alone = evaluate(Painter(0.5), Clips(1))
    assert alone["values"] == {}
    assert "pairs" in alone["left_out"]["lpips_diversity"]
    assert alone["protocol"]["clip"].startswith("4 frames of 32x40 pixels, 3 channels")
    with pytest.raises(ZooError, match="neither"):
        evaluate(nn.Linear(2, 2), data)


def test_neighbouring_seeds_share_no_sample_and_seed_0_keeps_its_own() -> None:
    class Noted(Painter):
        def __init__(self) -> None:
            super().__init__(0.5)
            self.seeds: list[int] = []

        def sample(self, num: int, *, num_frames: int | None = None, seed: int = 0) -> Tensor:
            self.seeds.append(seed)
            return super().sample(num, num_frames=num_frames, seed=seed)

    zero, one = Noted(), Noted()
    evaluate(zero, Clips(6), seed=0)
    evaluate(one, Clips(6), seed=1)
    assert zero.seeds == [0, 1, 2]
    assert not {*zero.seeds} & {*one.seeds}
