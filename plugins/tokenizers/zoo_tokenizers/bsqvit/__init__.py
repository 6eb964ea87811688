"""BSQ-ViT, transformer tokenizers for images and video (https://arxiv.org/abs/2406.07548)."""

from zoo.converters import Converter
from zoo.parts import PartSpec

_PAPER = "https://arxiv.org/abs/2406.07548"
_MODEL = "zoo_tokenizers.bsqvit.model"
_EXAMPLE = {"size": [16, 16], "patch_size": 4, "width": 16, "num_layers": 2, "num_heads": 2}

PARTS = [
    PartSpec(
        "encoder",
        "bsqvit",
        f"{_MODEL}:BSQViTEncoder",
        "BSQ-ViT for video: patches of frames, a transformer whose frames see themselves and the past.",
        example=_EXAMPLE | {"num_frames": 16},
        paper=_PAPER,
        license="MIT",
    ),
    PartSpec(
        "decoder",
        "bsqvit",
        f"{_MODEL}:BSQViTDecoder",
        "BSQ-ViT for video: a transformer whose frames see themselves and the past, then patches.",
        example=_EXAMPLE | {"num_frames": 16, "head_width": 24},
        paper=_PAPER,
        license="MIT",
    ),
    PartSpec(
        "encoder",
        "bsqvit-image",
        f"{_MODEL}:BSQViTImageEncoder",
        "BSQ-ViT for images, frame by frame: patches and a transformer.",
        example=_EXAMPLE,
        paper=_PAPER,
        license="MIT",
    ),
    PartSpec(
        "decoder",
        "bsqvit-image",
        f"{_MODEL}:BSQViTImageDecoder",
        "BSQ-ViT for images, frame by frame: a transformer, then patches.",
        example=_EXAMPLE | {"head_width": 24},
        paper=_PAPER,
        license="MIT",
    ),
]

CONVERTERS = [
    Converter(
        "bsqvit",
        "zoo_tokenizers.bsqvit.weights:map_bsqvit_state_dict",
        recipes=("bsqvit-*",),
        summary="BSQ-ViT of images and video: checkpoint.pt; --prefix tells averaged weights from others.",
        source="https://github.com/zhaoyue-zephyrus/bsq-vit#main-results",
    ),
]
