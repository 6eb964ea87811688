"""The schema of a recipe: which parts a model is made of, on which clips and how it is trained.

A recipe is data. Everything here is checked before a part is imported; `zoo.recipe_files` reads
recipes from YAML with the line of every mistake, and `zoo.build` checks part options and ports.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue


class Strict(BaseModel):
    """A closed set of fields, none of them converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PartChoice(BaseModel):
    """A part by name; every other key is an option of that part."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]

    use: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the part, or ``plugin:name`` where two plugins offer the name."""

    @property
    def options(self) -> dict[str, Any]:
        """The options given to the part's class."""
        return dict(self.__pydantic_extra__ or {})


class DiscriminatorChoice(PartChoice):
    """A discriminator by name, and how much its verdict counts."""

    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Factor on this discriminator's part of the generator's adversarial loss."""


def _part(value: Any) -> Any:
    return {"use": value} if isinstance(value, str) else value


def _part_list(value: Any) -> Any:
    if value is None:
        return []
    return [_part(item) for item in value] if isinstance(value, list) else [_part(value)]


OnePart = Annotated[PartChoice, BeforeValidator(_part)]
PartList = Annotated[list[DiscriminatorChoice], BeforeValidator(_part_list), Field(max_length=8)]


class Clip(Strict):
    """The clips a model is trained on."""

    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Colour channels: 3 RGB, 1 grey."""
    num_frames: Annotated[int, Field(ge=1, le=4096)] = 16
    """Frames in a clip."""
    height: Annotated[int, Field(ge=8, le=4096)] = 64
    """Pixels from top to bottom."""
    width: Annotated[int, Field(ge=8, le=4096)] = 64
    """Pixels from left to right."""
    fps: Annotated[float, Field(ge=0.01, le=1000)] | None = None
    """Frames a second that a clip is sampled at; the file's own rate when left out."""

    @property
    def playback_fps(self) -> float:
        """Frames a second that made clips are written with; 10 where clips keep their own rate."""
        return self.fps or 10.0


class Optimizer(Strict):
    """An optimiser, made by timm's factory."""

    use: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,60}$")] = "adamw"
    """Name of a timm or torch optimiser: adam, adamw, ..."""
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    """Peak learning rate."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [
        0.9,
        0.999,
    ]
    """Decay of the first and second moment."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to the denominator."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Decoupled weight decay where the optimiser has it."""


class Schedule(Strict):
    """A learning-rate schedule over the run, made by timm's factory."""

    use: Literal["constant", "cosine", "linear"] = "constant"
    """Shape of the decay after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate climbs from 0."""
    min_lr: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Rate at the end of the decay."""


class Reconstruction(Strict):
    """Pixel distance between a clip and its reconstruction, both in [-1, 1]."""

    loss: Literal["l1", "mse"] = "l1"
    """Mean absolute or mean squared difference."""
    weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Factor on the term."""


class Perceptual(Strict):
    """LPIPS v0.1 with AlexNet between frames (https://arxiv.org/abs/1801.03924)."""

    weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Factor on the term."""
    num_frames: Annotated[int, Field(ge=1)] | None = None
    """Frames drawn from each clip at every step; all when left out."""


class QuantizerTerm(Strict):
    """The quantizer's own loss: commitment and codebook, entropy, or KL, weighed by its options."""

    weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Factor on the term."""


class GradientPenalty(Strict):
    """A penalty on the slope of the discriminators' scores: `weight / 2 * E||grad D(x)||^2`, per clip.

    Sources: R1 and R2 https://arxiv.org/abs/1801.04406, lazily https://arxiv.org/abs/1912.04958.
    """

    weight: Annotated[float, Field(gt=0, le=1e6)]
    """Gamma: the penalty counts half of it."""
    every: Annotated[int, Field(ge=1, le=1000)] = 1
    """Updates of the discriminators between two with the penalty, which then counts as many times over."""


class WassersteinPenalty(Strict):
    """WGAN-GP: `weight * E(||grad D(x)|| - 1)^2` at clips between real and made (https://arxiv.org/abs/1704.00028)."""

    weight: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """Factor on the term."""
    every: Annotated[int, Field(ge=1, le=1000)] = 1
    """Updates of the discriminators between two with the penalty, which then counts as many times over."""


class Lecam(Strict):
    """Keeps scores near the running mean of the other side's, for little data (https://arxiv.org/abs/2104.03310)."""

    weight: Annotated[float, Field(gt=0, le=1e6)]
    """Factor on the term."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Weight of the past in the running means."""


class FeatureMatching(Strict):
    """Mean absolute difference between the discriminators' features of real and of made clips.

    Sources: https://arxiv.org/abs/1606.03498, https://arxiv.org/abs/1711.11585.
    """

    weight: Annotated[float, Field(gt=0, le=1e6)]
    """Factor on the generator's term; 10 in pix2pixHD."""


class Contrastive(Strict):
    """MoCoGAN-HD's contrastive loss of discriminators that project what they see, with a queue of frames.

    Two augmented views of a frame are to be alike, and unlike others (https://arxiv.org/abs/2104.15069).
    """

    weight: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    """Factor on the discriminators' term."""
    match: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Factor on the generator's term: minus the cosine between a frame and its clip's reference frame."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 0.07
    """What cosines are divided by."""
    queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Frames of each side that are remembered."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Weight of the past in the copy of the discriminator that projects what is remembered."""


class Categories(Strict):
    """MoCoGAN's term of discriminators that name the kind of a clip (https://arxiv.org/abs/1707.04993)."""

    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Factor on the term of either player; 1 in the authors' code."""
    learn_from: Literal["labels", "made"] = "labels"
    """What discriminators learn kinds from: labels of real clips (AC-GAN) or what is made (InfoGAN)."""


class PathLength(Strict):
    """StyleGAN2's path length: a step in latent space is to change a clip as much anywhere.

    Source: https://arxiv.org/abs/1912.04958, appendix B.
    """

    weight: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    """Factor on the generator's term."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Weight of the newest lengths in their running mean."""
    every: Annotated[int, Field(ge=1, le=1000)] = 4
    """Updates of the generator between two with the penalty, which then counts as many times over."""


class DiffAugment(Strict):
    """Differentiable changes to every clip the discriminators see (https://arxiv.org/abs/2006.10738)."""

    use: Literal["diffaugment"]
    """Name of the method."""
    policy: Annotated[list[Literal["color", "translation", "cutout", "speed"]], Field(max_length=4)] = [
        "color",
        "translation",
        "cutout",
    ]
    """Which changes, in this order; speed is LongVideoGAN's (https://arxiv.org/abs/2206.03429)."""


class AdaptiveAugment(Strict):
    """Changes with a probability p that follows how much the discriminators overfit: ADA.

    Source: https://arxiv.org/abs/2006.06676.
    """

    use: Literal["ada"]
    """Name of the method."""
    target: Annotated[float, Field(gt=-1, lt=1)] = 0.6
    """Mean sign of the real clips' scores that p holds."""
    interval: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Updates of the discriminators between two changes of p."""
    adjust_clips: Annotated[int, Field(ge=1)] = 500_000
    """Real clips in which p can go from 0 to 1."""
    geometric: bool = True
    """Flips, quarter turns, translation, scaling, rotation."""
    color: bool = True
    """Brightness, contrast, luma flip, hue, saturation."""


def _any_of(schema: dict[str, Any]) -> None:
    # Editors and docs/generate.py read anyOf; that the choices exclude each other, their `use` says.
    schema["anyOf"] = schema.pop("oneOf")
    del schema["discriminator"]


AugmentChoice = Annotated[
    DiffAugment | AdaptiveAugment, Field(discriminator="use", json_schema_extra=_any_of)
]


class Adversarial(Strict):
    """The game between the model and its discriminators."""

    loss: Literal["minimax", "non-saturating", "hinge", "least-squares", "wasserstein", "relativistic"] = (
        "hinge"
    )
    """Which pair of losses the two players minimise."""
    weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Factor on the generator's term."""
    adaptive: bool = False
    """Scale the term by |grad reconstruction| / |grad adversarial| at the last layer (VQGAN)."""
    start_step: Annotated[int, Field(ge=0)] = 0
    """Step at which the discriminators start to learn and to count."""
    discriminator_steps: Annotated[int, Field(ge=1, le=100)] = 1
    """Discriminator updates for each update of the model."""
    r1: GradientPenalty | None = None
    """Gradient penalty on real clips; off when left out."""
    r2: GradientPenalty | None = None
    """Gradient penalty on made clips; off when left out."""
    gradient_penalty: WassersteinPenalty | None = None
    """Gradient penalty between real and made clips (WGAN-GP); off when left out."""
    lecam: Lecam | None = None
    """Regulariser on the scores; off when left out."""
    feature_matching: FeatureMatching | None = None
    """Term of the generator on the discriminators' features; off when left out."""
    contrastive: Contrastive | None = None
    """Term of discriminators that project what they see; off when left out. Needs `augment`."""
    categories: Categories | None = None
    """Term of discriminators that name the kind of a clip, and of the generator; off when left out."""
    path_length: PathLength | None = None
    """Regulariser of a GAN's generator; off when left out."""
    spectral_norm: bool = False
    """Hold the largest singular value of every weight of the discriminators at 1 (https://arxiv.org/abs/1802.05957)."""
    augment: AugmentChoice | None = None
    """What is done to real and made clips before they are judged; nothing when left out."""


class TokenTerm(Strict):
    """Cross entropy of the codes that a prior learns, in nats a code."""

    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Factor on the term."""


class Objective(Strict):
    """Named loss terms. A term is off when left out, and needs the parts it names."""

    reconstruction: Reconstruction | None = None
    perceptual: Perceptual | None = None
    quantizer: QuantizerTerm | None = None
    adversarial: Adversarial | None = None
    tokens: TokenTerm | None = None


class Ema(Strict):
    """Exponential moving average of the model's weights, used for evaluation and saving."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Weight of the past at every step."""
    warmup: bool = True
    """Start with a short memory: decay at step n is at most (1 + n) / (10 + n)."""
    half_life_clips: Annotated[int, Field(ge=1)] | None = None
    """Clips after which a weight counts half, instead of `decay`; with `warmup` at most 5 % of those seen."""


class Anneal(Strict):
    """A number of `train` that changes in the course of the run, from its own value to another."""

    number: Annotated[str, Field(min_length=1, max_length=200)]
    """Where it stands in `train`: a weight of the objective (objective.adversarial.r1.weight), a beta of an
    optimiser (optimizer.betas.1), or the memory of the moving average (ema.half_life_clips)."""
    to: float
    """What it comes to."""
    use: Literal["cosine", "linear"] = "cosine"
    """Shape of the way there."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Steps until it is there; those of the whole run when left out."""


class Train(Strict):
    """How the model is trained."""

    steps: Annotated[int, Field(ge=1, le=100_000_000)] = 10_000
    """Updates of the model."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Clips in a step."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of weights, data order and noise."""
    optimizer: Optimizer = Optimizer()
    """Optimiser of the model (encoder, quantizer, decoder, generator)."""
    discriminator_optimizer: Optimizer | None = None
    """Optimiser of the discriminators; the same settings as `optimizer` when left out."""
    schedule: Schedule = Schedule()
    """Learning-rate schedule of both optimisers."""
    anneal: Annotated[list[Anneal], Field(max_length=32)] = []
    """Further numbers that change in the course of the run."""
    ema: Ema | None = None
    """Moving average of the weights; off when left out."""
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest gradient norm of each player; no limit when left out."""
    health: Literal["warn", "stop", "off"] = "warn"
    """What the monitors do when they find a run unwell: warn, or end it; off, there are none."""
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Parts that a batch goes through the model in, one after the other, to save memory."""
    precision: Literal["fp32", "bf16"] | None = None
    """What networks compute in: bf16 is autocast, weights and losses stay fp32. Left out, bf16 on GPUs that
    have it and fp32 elsewhere."""
    activation_checkpointing: bool = False
    """Forget what lies between blocks of the model and compute it again in the backward pass: less memory,
    more time, the same bits."""
    compile: bool = False
    """Have torch.compile make programs of the networks; needs a C++ compiler, and a minute at the start."""
    memory_format: Literal["contiguous", "channels_last_3d"] = "contiguous"
    """Order in memory of clips and convolution kernels."""
    not_finite: Literal["stop", "skip", "roll-back"] = "stop"
    """What is done about a loss, gradient or clip that is not finite: end the run, leave that update out, or
    go back to the last checkpoint and on with the clips that follow."""
    augment: list[Literal["flip"]] = []
    """Changes made to training clips: `flip` mirrors half of them left to right."""
    objective: Objective = Objective()
    """What is minimised."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between logged numbers."""
    eval_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between evaluations on held-out clips; only at the end when left out."""
    save_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints."""


class Result(Strict):
    """What a real run of the recipe gave."""

    command: str
    """The command that repeats it."""
    data: str
    """What it was trained and measured on."""
    hardware: str
    """What it ran on."""
    hours: float
    """Wall-clock time of training."""
    figures: dict[str, float]
    """Measured numbers by name, units in the name."""


class Published(Strict):
    """What others report of the published weights that the recipe is for; never measured here."""

    data: Annotated[str, Field(min_length=1, max_length=200)]
    """What it was measured on, as far as the source says."""
    figures: Annotated[dict[str, float], Field(min_length=1)]
    """Reported numbers by name, units in the name."""
    source: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=300)]
    """Link to the page that reports them."""


Assembly = Literal["autoencoder", "gan", "latent-gan", "token-prior"]


class FirstStage(Strict):
    """The tokenizer under a prior: an autoencoder recipe, by name.

    Its clip, encoder, quantizer, decoder and projections are those of the recipe unless that has its own.
    """

    use: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the recipe."""
    every: Annotated[int, Field(ge=1, le=256)] = 1
    """A prior learns one latent frame in so many: 4 is frames 0, 4, 8, ... Another fills in the rest."""
    starts: Literal["auto", "begin", "any"] = "auto"
    """Where windows begin in a folder of tokens: where a stream did, or anywhere; see docs/tokens.md."""
    train: Train = Train()
    """How it is trained where no trained one is given; what is left out is as in its recipe."""
    discriminator: PartList = []
    """Its discriminators; as in its recipe when left out."""


class Recipe(Strict):
    """A model by name: its parts, its clips, its training and what that gave."""

    summary: Annotated[str, Field(min_length=1, max_length=300)]
    """One line for ``zoo list``."""
    extends: str | None = None
    """Recipe this one starts from; a part with another `use` starts clean."""
    assembly: Assembly
    """How the parts are wired."""
    paper: str | None = None
    """Link to the paper the configuration is published in."""
    clip: Clip = Clip()
    """The clips it is trained on."""
    tokenizer: Annotated[FirstStage, BeforeValidator(_part)] | None = None
    """Recipe of the tokenizer that a prior stands on, which gives the fields that are left out here."""
    encoder: OnePart | None = None
    quantizer: OnePart | None = None
    decoder: OnePart | None = None
    generator: OnePart | None = None
    discriminator: PartList = []
    pre_quant: Literal["conv1x1x1"] | None = None
    """Projection from the encoder's latent width to the quantizer's; needed where they differ."""
    post_quant: Literal["conv1x1x1"] | None = None
    """Projection from the quantizer's latent width to the decoder's; needed where they differ."""
    train: Train = Train()
    """How it is trained."""
    parameters: Annotated[int, Field(gt=0)] | None = None
    """Weights of the model without its discriminators; a test holds the number."""
    results: list[Result] = []
    """What real runs gave, latest last."""
    published: list[Published] = []
    """What others report of the published weights; not inherited."""
