"""Published weights become model folders: the same tensors, the same outputs, an account of each."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor, nn

import zoo
from zoo.assemblies import Assembly
from zoo.cli.group import cli
from zoo.converting import convert, examine
from zoo.discovery import catalogue
from zoo.errors import OutputExistsError, UnknownNameError, WeightsError

# Ours -> public, by the beginning of the name.
RENAMED = {
    "cosmos": {"pre_quant": "quant_conv.conv3d", "post_quant": "post_quant_conv.conv3d"},
    "taming": {
        "pre_quant": "quant_conv",
        "post_quant": "post_quant_conv",
        "quantizer.embeddings": "quantize.embedding.weight",
    },
    "tats": {"pre_quant": "pre_vq_conv.conv", "post_quant": "post_vq_conv.conv", "quantizer": "codebook"},
    "videogpt": {"pre_quant": "pre_vq_conv.conv", "post_quant": "post_vq_conv.conv", "quantizer": "codebook"},
    "mocogan": {"generator": ""},
}
NOT_PUBLISHED = {"quantizer.initialized", "quantizer.N", "discriminator"}
RECIPES = {
    "cosmos": "cosmos-video-dv4x8x8-tiny",
    "taming": "vqgan-image-tiny",
    "tats": "tats-video-tiny",
    "videogpt": "vqvae-video-tiny",
    "mocogan": "gan-video-tiny",
}


def trained(family: str) -> Assembly:
    """A model whose weights are all random and none as they were initialised."""
    model = zoo.build(RECIPES[family], seed=1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(
                    torch.rand(tensor.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05
                )
            elif name == "quantizer.initialized":
                tensor.fill_(True)
    return model


def public(model: Assembly, family: str) -> dict[str, Tensor]:
    """The weights of a model under their public names and in their public shapes."""
    state = {}
    for name, tensor in model.state_dict().items():
        if (family != "tats" and name in NOT_PUBLISHED) or name.startswith("discriminator"):
            continue
        if name == "quantizer.initialized":
            continue
        for ours, theirs in RENAMED[family].items():
            if name == ours or name.startswith(f"{ours}."):
                name = (theirs + name.removeprefix(ours)).removeprefix(".")
                break
        flat = family == "taming" and name in ("quant_conv.weight", "post_quant_conv.weight")
        state[name] = tensor.squeeze(-1) if flat else tensor
    if family == "videogpt":
        state["codebook.N"] = model.state_dict()["quantizer.N"]
    return state


class Tree(nn.Module):
    """A module with given names of parameters and buffers, as TorchScript archives hold them."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            head, _, rest = name.partition(".")
            if rest:
                inner.setdefault(head, {})[rest] = tensor
            else:
                self.register_buffer(head, tensor)
        for head, part in inner.items():
            self.add_module(head, Tree(part))

    def forward(self, x: Tensor) -> Tensor:
        return x


def as_lightning(state: dict[str, Tensor], path: Path) -> None:
    """Save as training code does: foreign objects, an optimizer and a discriminator around the weights."""
    lost = {"loss.discriminator.main.0.weight": torch.ones(4, 3, 4, 4)}
    torch.save(
        {
            "state_dict": {**state, **lost},
            "hyper_parameters": argparse.Namespace(lr=np.float64(1e-3)),
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        },
        path,
    )


def as_torchscript(state: dict[str, Tensor], path: Path) -> None:
    torch.jit.script(Tree(state)).save(str(path))


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "model.pt": torch.save,
    "old.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "last.ckpt": as_lightning,
    "autoencoder.jit": as_torchscript,
    "model.safetensors": lambda state, path: save_file({k: v.contiguous() for k, v in state.items()}, path),
}


CASES = [
    *zip(RECIPES, WRITERS, strict=True),
    ("videogpt", "last.ckpt"),
    ("mocogan", "old.pth"),
    ("tats", "autoencoder.jit"),
    ("taming", "model.safetensors"),
]


@pytest.mark.parametrize(("family", "name"), CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_round_trip(family: str, name: str, tmp_path: Path) -> None:
    model = trained(family)
    state = public(model, family)
    WRITERS[name](state, tmp_path / name)
    done = convert(tmp_path / name, RECIPES[family], tmp_path / "model")
    assert done.converter == family
    assert {t.public for t in done.mapped} - {None} == state.keys()
    assert [t.name for t in done.unused] == (["loss.discriminator.main.0.weight"] if "ckpt" in name else [])
    assert done.missing == ()
    loaded = zoo.load(tmp_path / "model")
    assert loaded.name == RECIPES[family]
    assert len(loaded.discriminator) == 0
    for key, tensor in loaded.state_dict().items():
        if key not in NOT_PUBLISHED:
            assert torch.equal(tensor, model.state_dict()[key]), key
    if family == "mocogan":
        assert torch.equal(loaded.sample(1, seed=3), model.sample(1, seed=3))
    else:
        x = torch.rand(1, 3, 5, 24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    text = (tmp_path / "model" / "README.md").read_text()
    assert done.files[0].sha256 in text
    assert all(f"`{t.name}`" in text for t in done.mapped)
    assert zoo.weights.check(tmp_path / "model").problems == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_family_finds_its_recipe_and_parts_come_from_several_files(tmp_path: Path) -> None:
    model = trained("cosmos")
    state = public(model, "cosmos")
    front = {name: t.bfloat16() for name, t in state.items() if name.startswith(("encoder", "quant"))}
    back = {name: t.bfloat16() for name, t in state.items() if name not in front}
    as_torchscript({**front, "shared": torch.ones(1)}, tmp_path / "encoder.jit")
    as_torchscript({**back, "shared": torch.ones(1)}, tmp_path / "decoder.jit")
    with pytest.raises(WeightsError, match=r"fits none of the 10 recipes of 'cosmos'(.|\n)*decoder\.conv_in"):
        convert(tmp_path / "encoder.jit", "cosmos", tmp_path / "model")
    done = convert([tmp_path / "encoder.jit", tmp_path / "decoder.jit"], "cosmos", tmp_path / "model")
    assert done.recipe == RECIPES["cosmos"]
    assert {t.dtype for t in done.mapped} == {"bfloat16"}
    assert [t.name for t in done.unused] == ["shared"]
    for name, tensor in zoo.load(tmp_path / "model").state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].bfloat16().float())


def test_gan_with_discriminators_beside_it(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "generator": {"base_channels": 4},
        "discriminator": [
            {"use": f"mocogan-{kind}", "base_channels": 4} for kind in ("patch-image", "video")
        ],
    }
    model = zoo.build("gan-video-base", seed=1, **small)
    parts = {"generator": model.generator, "image": model.discriminator[0], "video": model.discriminator[1]}
    for name, part in parts.items():
        torch.save(part.state_dict(), tmp_path / f"{name}.pytorch")
    files = [tmp_path / f"{name}.pytorch" for name in parts]
    done = convert(files, "gan-video-base", tmp_path / "model", **small)
    assert (done.unused, done.without_discriminators) == ((), False)
    loaded = zoo.load(tmp_path / "model").state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.items())
    alone = examine(files[:2], "gan-video-base", **small)
    assert alone.without_discriminators
    assert {t.name for t in alone.unused} == {f"image.{name}" for name in model.discriminator[0].state_dict()}


def test_what_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    state = public(trained("videogpt"), "videogpt")
    out = tmp_path / "model"

    def refused(changed: dict[str, Any], name: str, says: str, **overrides: Any) -> None:
        torch.save(changed, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=says):
            convert(tmp_path / "w.pt", name, out, **overrides)
        assert not out.exists()

    lost = {name: tensor for name, tensor in state.items() if name != "decoder.convts.0.convt.bias"}
    refused(lost, "vqvae-video-tiny", r"lack decoder\.convts\.0\.convt\.bias")
    assert examine(tmp_path / "w.pt", "vqvae-video-tiny").missing == ("decoder.convts.0.convt.bias",)
    wrong = {**state, "encoder.conv_last.conv.bias": torch.ones(3)}
    refused(wrong, "vqvae-video-tiny", r"encoder\.conv_last\.conv\.bias is \(3,\) where \(32,\) fits")
    refused(state, "vqvae-video-base", r"encoder\.convs\.0\.conv\.weight is \(.*\) where the model has")
    refused(
        state,
        "vqvae-video-tiny",
        "no place in the model.* quantizer",
        quantizer={"use": "fsq", "levels": [8, 8, 8]},
    )
    torch.save(state, tmp_path / "w.pt")
    found = examine(tmp_path / "w.pt", "vqvae-video-base")
    assert found.problems
    with pytest.raises(WeightsError, match="where the model has"):
        found.write(out)
    # Trained otherwise than the recipe says:
    assert convert(tmp_path / "w.pt", "vqvae-video-tiny", out, clip={"num_frames": 8}).folder == out
    assert zoo.load(out).recipe.clip.num_frames == 8
    with pytest.raises(OutputExistsError):
        convert(tmp_path / "w.pt", "vqvae-video-tiny", out)
    convert(tmp_path / "w.pt", "vqvae-video-tiny", out, force=True)


def test_names_that_nothing_stands_for(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pt")
    for name, says in [
        ("cosmoss", "did you mean 'cosmos'"),
        ("vae-video-tiny", "no converter gives recipe 'vae-video-tiny'"),
    ]:
        with pytest.raises(UnknownNameError, match=f"(?i){says}.*zoo weights convert --list"):
            convert(tmp_path / "w.pt", name, tmp_path / "model")
    with pytest.raises(WeightsError, match="no VideoGPT VQ-VAE"):
        convert(tmp_path / "w.pt", "vqvae-video-tiny", tmp_path / "model")


def test_every_converter_is_for_recipes_that_have_what_it_asks_for() -> None:
    from zoo.building import resolve_recipe
    from zoo.converting.conversion import recipe_option

    known = catalogue()
    assert {"cosmos", "cosmos-image", "taming", "tats", "videogpt", "mocogan"} <= {
        c.name for c in known.converters
    }
    for offered in known.converters:
        offered.load()
        recipes = offered.among(known.recipes)
        assert recipes, offered.name
        for pattern in offered.spec.recipes:
            assert any(re.fullmatch(pattern.replace("*", ".*"), recipe) for recipe in recipes), pattern
        for recipe in recipes:
            for path in offered.spec.arguments.values():
                recipe_option(resolve_recipe(recipe).recipe, path)


PLUGIN = """
from pathlib import Path
from zoo.converters import Converter
from zoo.hookspecs import hookimpl

@hookimpl
def zoo_recipes():
    return [Path(__file__).parent / "mine.yaml"]

@hookimpl
def zoo_converters(api_version):
    assert api_version >= 2
    return [
        Converter("mine", "my_convert:rename", recipes=["mine-*"], summary="Mine.", source="https://example.org"),
        Converter("cosmos", "my_convert:rename", recipes=["*"], summary="Mine.", source="https://example.org"),
        "not a converter",
    ]
"""
RENAME = """
def rename(state):
    return {name.removeprefix("my_"): tensor for name, tensor in state.items() if name.startswith("my_")}, \\
        [name for name in state if not name.startswith("my_")]
"""
MINE = """
recipes:
  {name}:
    summary: Mine.
    assembly: autoencoder
    extends: vqvae-fsq-video-tiny
"""


def test_a_third_partys_converter_is_found(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "dist_mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zoo]\nmine = my_manifest\n")
    (site / "my_manifest.py").write_text(PLUGIN)
    (site / "my_convert.py").write_text(RENAME)
    (site / "mine.yaml").write_text(
        MINE.format(name="mine-one") + MINE.format(name="mine-two").split("recipes:")[1]
    )
    state = zoo.build("vqvae-fsq-video-tiny", seed=1).state_dict()
    torch.save({**{f"my_{name}": t for name, t in state.items()}, "other": torch.ones(1)}, tmp_path / "w.pt")

    code = (
        "import json; from click.testing import CliRunner; from zoo.cli.group import cli;"
        "from zoo.discovery import catalogue;"
        "run = lambda *words: CliRunner().invoke(cli, ['weights', 'convert', 'w.pt', *words]);"
        "several = run('--as', 'mine', '--out', 'model');"
        "done = run('--as', 'mine-two', '--out', 'model', '--json');"
        "print(json.dumps([several.exit_code, several.output, done.exit_code, json.loads(done.stdout),"
        "[str(p) for p in catalogue().problems]]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert found.returncode == 0, found.stderr
    several, said, done, report, problems = json.loads(found.stdout)
    assert (several, done) == (1, 0)
    assert "fits 2 recipes of 'mine'" in said
    assert "mine-one, mine-two" in said
    assert (report["converter"], report["provided_by"]) == ("mine", "dist-mine")
    assert [t["public"] for t in report["unused"]] == ["other"]
    assert any("'cosmos' is taken by zoo-video" in problem for problem in problems)
    assert any("must return Converter objects" in problem for problem in problems)


def run_zoo(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="zoo")


def test_command(tmp_path: Path) -> None:
    state = public(trained("tats"), "tats")
    as_lightning(state, tmp_path / "vqgan.ckpt")
    out, report = tmp_path / "model", tmp_path / "report.json"
    words: list[str | Path] = ["weights", "convert", tmp_path / "vqgan.ckpt", "--as", "tats"]

    dry = run_zoo(*words, "--dry-run", "--report", report)
    assert dry.exit_code == 0, dry.output
    assert "nothing written" in dry.output
    assert not out.exists()
    written = json.loads(report.read_text())
    assert {t["public"] for t in written["mapped"]} == {*state, None}
    assert written["files"][0]["not_read"] == ["hyper_parameters", "optimizer_states"]
    assert written["without_discriminators"] is True

    done = run_zoo(*words, "--out", out)
    assert done.exit_code == 0, done.output
    for said in ("as tats-video-tiny", "mapped", "loss.* (1)", "discriminators are left out", f"wrote {out}"):
        assert said in done.output
    again = run_zoo(*words, "--out", out)
    assert again.exit_code == 2
    assert "--force" in again.output
    assert run_zoo(*words, "--out", out, "--force", "--json").exit_code == 0
    assert run_zoo("weights", "check", out).exit_code == 0

    bad = run_zoo(*words[:-1], "tats-video-base", "--out", tmp_path / "bad", "--json")
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["problems"]
    assert "where the model has" in bad.stderr
    assert not (tmp_path / "bad").exists()
    for missing in (words, words[:3], [*words[:2], "--as", "tats", "--out", "x"]):
        assert run_zoo(*missing).exit_code == 2
    listed = run_zoo("weights", "convert", "--list")
    assert "cosmos-video-" in listed.output
    assert "https://" in listed.output
    assert {f["name"] for f in json.loads(run_zoo("weights", "convert", "--list", "--json").stdout)} >= set(
        RECIPES
    )


def test_converted_weights_run_on_a_video(tmp_path: Path) -> None:
    from zoo.data import write_video

    torch.save(public(trained("videogpt"), "videogpt"), tmp_path / "w.pt")
    convert(tmp_path / "w.pt", "videogpt", tmp_path / "model")
    write_video(tmp_path / "in.mp4", torch.zeros(3, 6, 16, 16), 8.0)
    done = run_zoo("reconstruct", tmp_path / "model", tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.mp4").stat().st_size > 0
