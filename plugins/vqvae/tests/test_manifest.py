"""The manifest: light to import, and true to the classes it names."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from zoo.parts import PartSpec
from zoo.ports import ports_of
from zoo_vqvae import manifest

SPECS = list(manifest.zoo_parts(api_version=1))


def test_manifest_imports_no_torch() -> None:
    code = "import sys, zoo_vqvae.manifest as m; m.zoo_parts(1); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("spec", SPECS, ids=[f"{spec.kind}-{spec.name}" for spec in SPECS])
def test_example_builds_with_its_ports(spec: PartSpec) -> None:
    module, _, name = spec.target.partition(":")
    part = getattr(importlib.import_module(module), name)
    options = json.loads(json.dumps(dict(spec.example)))
    ports_of(spec.kind, spec.name, part(**options))
