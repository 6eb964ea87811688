"""Options of speed and memory: the same training, faster or smaller, and nothing of it left between steps."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY
from torch import Tensor, nn
from training.squares import GAN, VQGAN, Squares
from training.test_trainer import StopAfter, losses, run

import zoo
from zoo.data import make_loader
from zoo.errors import TrainingError
from zoo.precision import FullPrecisionConv3d
from zoo.training.acceleration import Replacement, in_place
from zoo.training.checkpoint import load_checkpoint
from zoo.training.checkpointing import checkpointed, find_blocks
from zoo.training.loop import training_step
from zoo.training.run import Labelled, Run, start

BF16 = {"precision": "bf16"}
CHECKPOINTING = {"activation_checkpointing": True}
CHANNELS_LAST = {"memory_format": "channels_last_3d"}


def _with_penalties() -> dict[str, Any]:
    recipe = copy.deepcopy(GAN)
    recipe["train"]["objective"]["adversarial"] |= {"r1": {"weight": 1.0}, "path_length": {"every": 1}}
    return recipe


WITH_R1 = {"objective": {"adversarial": {"loss": "non-saturating", "r1": {"weight": 1.0}}}}


def _with_the_game_on() -> dict[str, Any]:
    recipe = copy.deepcopy(VQGAN)
    recipe["train"]["objective"]["adversarial"]["start_step"] = 0
    return recipe


RECIPES: dict[str, dict[str, Any]] = {
    "vqgan": _with_the_game_on(),
    "gan": _with_penalties(),
    "prior": {
        **TINY,
        "assembly": "token-prior",
        "generator": {"use": "gpt", "num_layers": 2, "hidden_dim": 32, "num_heads": 2, "dropout": 0.1},
        "train": {"batch_size": 4, "objective": {"tokens": {}}, "ema": {"decay": 0.9}},
    },
}
"""An adaptive weight, a codebook and batch norm; first and second derivatives of both players; dropout."""


def begin(name: str, **train: Any) -> Run:
    recipe = copy.deepcopy(RECIPES[name])
    recipe["train"] |= train
    return start(zoo.build(recipe, seed=0), torch.device("cpu"))


def batches() -> Iterator[Labelled]:
    return (Labelled(batch["x_BCTHW"]) for batch in make_loader(Squares(12), batch_size=4, num_workers=0))


def trained(run: Run, steps: int = 3) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    torch.manual_seed(0)
    data = batches()
    numbers = [{k: float(v) for k, v in training_step(run, data).items()} for _ in range(steps)]
    assert run.average is not None
    average = {f"average {name}": value for name, value in run.average.tensors().items()}
    return numbers, dict(run.model.state_dict()) | average


def assert_equal(run: Run, other: Run) -> None:
    numbers, weights = trained(run)
    again, others = trained(other)
    assert again == numbers
    assert others.keys() == weights.keys()
    assert [name for name, value in weights.items() if not torch.equal(value, others[name])] == []


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_activation_checkpointing_changes_no_bit(name: str, accumulate: int) -> None:
    options: dict[str, Any] = {"accumulate": accumulate}
    if accumulate > 1 and name != "prior":
        adversarial = copy.deepcopy(RECIPES[name]["train"]["objective"]["adversarial"])
        options["objective"] = RECIPES[name]["train"]["objective"] | {
            "adversarial": adversarial | {"adaptive": False, "path_length": None}
        }
    assert_equal(begin(name, **options), begin(name, **options, **CHECKPOINTING))


def test_blocks_run_twice_in_a_step_and_once_out_of_it() -> None:
    run = begin("prior", **CHECKPOINTING)
    block: Any = run.model.part("generator").blocks[0]  # type: ignore[union-attr]
    calls: list[bool] = []
    block.attention.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    training_step(run, batches())
    assert calls == [True, True]
    calls.clear()
    assert "forward" not in vars(block)
    run.model.eval()
    x_BCTHW = next(batches()).x_BCTHW
    loss = run.model.loss(x_BCTHW)  # type: ignore[operator]
    loss.backward()
    assert calls == [True]


class Restless(nn.Module):
    """A block of all that moves or is drawn in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Conv3d(3, 4, 3, padding=1))
        self.second = nn.utils.spectral_norm(nn.Conv3d(4, 4, 3, padding=1))
        self.norm = nn.BatchNorm3d(4)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x_BCTHW: Tensor, *, scale: float = 1.0) -> Tensor:
        y = self.norm(self.second(torch.tanh(self.first(x_BCTHW))))
        with torch.no_grad():
            self.mean = self.mean.lerp(y.square().mean() + y.mean(), 0.1)
        return scale * self.dropout(y) * (1 + self.mean)


def test_what_a_forward_pass_moves_moves_once_and_is_the_same_at_the_second_run() -> None:
    def passed(*, checkpoint: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        torch.manual_seed(0)
        block = Restless().train()
        x_BCTHW = torch.randn(2, 3, 4, 5, 5, requires_grad=True)
        (found,) = find_blocks(block)
        replacements = [Replacement(found, "forward", checkpointed(found))] if checkpoint else []
        with in_place(replacements):
            y = block(block(x_BCTHW, scale=2.0)[:, :3])
            # Penalties walk the graph more than once.
            (slope,) = torch.autograd.grad(y.square().sum(), x_BCTHW, create_graph=True)
            (slope.square().sum() + y.sum()).backward()
        gradients = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
        return dict(block.named_buffers()), gradients | {"output": y, "slope": slope}

    buffers, gradients = passed(checkpoint=False)
    same_buffers, same_gradients = passed(checkpoint=True)
    assert len(gradients) == 8
    for plain, twice in ((buffers, same_buffers), (gradients, same_gradients)):
        assert plain.keys() == twice.keys()
        assert [name for name, value in plain.items() if not torch.equal(value, twice[name])] == []


def test_a_block_that_is_handed_a_generator_runs_once() -> None:
    class Noisy(nn.Sequential):
        def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
            return super().forward(x) * torch.rand(x.shape, generator=generator)

    block, calls = Noisy(nn.Linear(2, 2), nn.Linear(2, 2)), list[int]()
    block[0].register_forward_hook(lambda *_: calls.append(1))
    checkpointed(block)(torch.ones(1, 2), torch.Generator().manual_seed(0)).sum().backward()
    assert calls == [1]


def test_blocks_are_the_modules_of_two_layers_or_more_that_hold_no_two_such() -> None:
    def attention() -> nn.Module:
        return nn.TransformerEncoderLayer(8, 2, 16)

    space = nn.Module()  # has no forward: it is never called
    space.a, space.b = nn.Linear(2, 2), nn.Linear(2, 2)
    part = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([attention(), attention()]), space)
    assert find_blocks(part) == list(part[1])
    assert find_blocks(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))) == []
    alone = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert find_blocks(alone) == [alone]


def test_where_an_option_has_nothing_to_do_it_says_so() -> None:
    with pytest.raises(TrainingError, match=r"penalties differentiate networks twice"):
        begin("gan", compile=True)
    model = zoo.build(RECIPES["vqgan"], seed=0, train=CHECKPOINTING)
    model.encoder = nn.Conv3d(3, 4, 1)
    model.decoder = nn.Conv3d(4, 3, 1)
    with pytest.raises(TrainingError, match=r"no part of .* has a block of two layers.*set it to false"):
        start(model, torch.device("cpu"))


@pytest.mark.parametrize("name", RECIPES)
def test_channels_last_gives_the_same_numbers_up_to_rounding(name: str) -> None:
    # A step of Adam's is as long for a gradient that is nothing but rounding as for any other.
    sgd = {"optimizer": {"use": "sgd", "lr": 1e-2}}
    plain, laid_out = begin(name, **sgd), begin(name, **sgd, **CHANNELS_LAST)
    for module in laid_out.model.modules():
        if isinstance(module, nn.Conv3d) and module.weight.shape[1] > 1 and module.kernel_size != (1, 1, 1):
            assert module.weight.is_contiguous(memory_format=torch.channels_last_3d)
    seen: list[Tensor] = []
    if name == "vqgan":
        laid_out.model.part("encoder").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    numbers, again = trained(plain)[0], trained(laid_out)[0]
    for a, b in zip(numbers, again, strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-5)
    assert all(x.is_contiguous(memory_format=torch.channels_last_3d) for x in seen)


@pytest.mark.parametrize("name", RECIPES)
def test_bf16_computes_in_bf16_and_keeps_weights_losses_and_penalties_in_fp32(name: str) -> None:
    run, plain = begin(name, **BF16), begin(name)
    types: set[torch.dtype] = set()
    for module in run.model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, output: types.add(output.dtype))
    numbers, weights = trained(run)
    assert torch.bfloat16 in types
    assert all(math.isfinite(value) for line in numbers for value in line.values())
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    state = run.player.optimizer.state_dict()["state"]
    assert {v.dtype for one in state.values() for v in one.values() if v.is_floating_point()} == {
        torch.float32
    }
    wanted = trained(plain, 1)[0][0]
    for key in {"loss", "tokens", "reconstruction", "r1", "path_length"} & wanted.keys():
        assert numbers[0][key] == pytest.approx(wanted[key], rel=0.1, abs=1e-3), key
    assert numbers[0] != wanted


@pytest.mark.parametrize("frames", [1, 4])
def test_under_bf16_a_processor_keeps_3d_convolutions_in_fp32(frames: int) -> None:
    torch.manual_seed(0)
    x_BCTHW = torch.randn(2, 16, frames, 8, 8)
    conv, frame_conv = nn.Conv3d(16, 16, 4, padding=2), nn.Conv2d(16, 16, 3)
    (wanted,) = torch.autograd.grad(conv(x_BCTHW).sum(), conv.weight)
    with FullPrecisionConv3d(), torch.autocast("cpu", torch.bfloat16):
        y = conv(x_BCTHW)
        assert frame_conv(x_BCTHW[:, :, 0]).dtype == torch.bfloat16
        assert F.conv_transpose3d(y.bfloat16(), conv.weight).dtype == torch.float32
    (found,) = torch.autograd.grad(y.sum(), conv.weight)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["vqgan", "gan"])
def test_a_resumed_run_with_all_options_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    recipe = copy.deepcopy(RECIPES[name])
    recipe["train"] |= {**BF16, **CHECKPOINTING, **CHANNELS_LAST, "steps": 4}
    whole = run(recipe, tmp_path / "whole")
    assert run(recipe, tmp_path / "cut", callbacks=[StopAfter(2)]).interrupted
    second = run(recipe, tmp_path / "cut", resume=True)
    assert losses(second) == losses(whole)
    a, b = (load_checkpoint(tmp_path / name / "checkpoint").tensors for name in ("whole", "cut"))
    for part in ("model", "ema", "optimizers", "rng"):
        assert all(torch.equal(tensor, b[part][key]) for key, tensor in a[part].items())
    assert second.figures == whole.figures


def test_on_resume_what_changes_bits_is_refused_and_checkpointing_is_not(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(RECIPES["vqgan"], out, steps=1)
    for option, there in ((BF16, "None"), (CHANNELS_LAST, "'contiguous'"), ({"compile": True}, "False")):
        ((field, value),) = option.items()
        with pytest.raises(TrainingError, match=f"train.{field} is {there} there and {value!r} here"):
            run(RECIPES["vqgan"], out, resume=True, steps=2, train=option)
    assert run(RECIPES["vqgan"], out, resume=True, steps=2, train=CHECKPOINTING).step == 2


def test_a_checkpoint_from_before_a_field_was_there_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(RECIPES["vqgan"], out, steps=1)
    path = out / "checkpoint" / "state.json"
    state = json.loads(path.read_text())
    del state["recipe"]["train"]["precision"], state["recipe"]["train"]["memory_format"]
    path.write_text(json.dumps(state))
    assert run(RECIPES["vqgan"], out, resume=True, steps=2).step == 2


def test_a_step_that_is_not_finite_is_skipped_with_all_options_on() -> None:
    started = begin("vqgan", **BF16, **CHECKPOINTING, **CHANNELS_LAST, not_finite="skip")
    trained(started, 1)
    before = copy.deepcopy(started.model.state_dict())
    names = [name for name in before if not name.startswith("discriminator.")]
    hook = started.model.part("decoder").register_forward_hook(lambda _m, _i, x: x * math.nan)
    training_step(started, batches())
    hook.remove()
    assert started.troubles
    assert all(torch.equal(started.model.state_dict()[name], before[name]) for name in names)
    assert math.isfinite(float(training_step(started, batches())["loss"]))


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))),
    reason="torch.compile needs a C++ compiler, and there is none on PATH: install g++ to run this test",
)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # both are torch's own, while it traces
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("name", "options"),
    [("vqgan", {}), ("gan", WITH_R1), ("prior", {**BF16, **CHECKPOINTING, **CHANNELS_LAST})],
    ids=["vqgan", "gan", "prior-with-all"],
)
def test_compiled_networks_train_as_the_others_and_go_on_exactly(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    sgd = {"optimizer": {"use": "sgd", "lr": 1e-2}}
    plain, compiled = begin(name, **sgd, **options), begin(name, **sgd, **options, compile=True)
    names = set(compiled.model.state_dict())
    wanted, found = trained(plain, 1)[0][0], trained(compiled, 2)[0][0]
    assert found == pytest.approx(wanted, rel=2e-2 if "precision" in options else 1e-4, abs=1e-5)
    assert set(compiled.model.state_dict()) == names
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    trained(compiled, 1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == made > 0
    recipe = copy.deepcopy(RECIPES[name])
    recipe["train"] |= {**options, "compile": True, "steps": 2, "log_every": 1}
    init = None
    if name == "prior":
        zoo.save(zoo.build(TINY, seed=0), tmp_path / "first")
        init = {"tokenizer": tmp_path / "first"}
    whole = run(recipe, tmp_path / "whole", init=init)
    assert run(recipe, tmp_path / "cut", init=init, callbacks=[StopAfter(1)]).interrupted
    torch.compiler.reset()  # as in a new process
    second = run(recipe, tmp_path / "cut", resume=True)
    assert losses(second) == losses(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_without_a_compiler_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    torch.compiler.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/g++",))
    run = begin("prior", compile=True)
    with (
        inductor.patch(force_disable_caches=True),
        pytest.raises(TrainingError, match=r"No working C\+\+ compiler.*to false"),
    ):
        training_step(run, batches())
