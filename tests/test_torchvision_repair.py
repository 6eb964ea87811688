"""`zoo.torchvision_repair`: each case in a fresh interpreter, since an import happens once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(code: str, *, path: Path | None = None) -> str:
    """Run code in a fresh interpreter, `path` first on its module path; return what it printed."""
    paths = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths + [p for p in sys.path if p])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchvision(folder: Path, body: str) -> Path:
    """A torchvision of one submodule and then `body`, to be found before the real one."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "early.py").write_text("")
    (package / "__init__.py").write_text("from torchvision import early\n" + textwrap.dedent(body))
    return folder


def test_timm_works_after_the_repair_and_again() -> None:
    out = run("""
        import sys
        import zoo.torchvision_repair as repair
        assert "torch" not in sys.modules and "timm" not in sys.modules
        timm = repair.import_timm()
        assert repair.import_timm() is timm and repair.repair_torchvision() is sys.modules["torchvision"]
        import torch
        from timm.optim import create_optimizer_v2
        model = timm.create_model("test_resnet", pretrained=False)
        assert create_optimizer_v2(model, opt="adamw", lr=1e-3)
        print(tuple(model.eval()(torch.zeros(1, 3, 32, 32)).shape))
    """)
    assert out == "(1, 1000)"


def test_threads_get_the_same_timm() -> None:
    out = run("""
        from concurrent.futures import ThreadPoolExecutor
        from zoo.torchvision_repair import import_timm
        with ThreadPoolExecutor(4) as pool:
            print(len({id(module) for module in pool.map(lambda _: import_timm(), range(4))}))
    """)
    assert out == "1"


def test_a_working_torchvision_is_left_alone(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path, "works = True")
    out = run(
        """
        import sys
        from zoo.torchvision_repair import repair_torchvision
        print(repair_torchvision().works, "torch" in sys.modules)
        """,
        path=fake,
    )
    assert out == "True False"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        ("RuntimeError('operator torchvision::roi_align does not exist')", "RuntimeError"),
        ("RuntimeError('operator torchvision::nms does not exist, and more')", "RuntimeError"),
        ("OSError('libcudart.so.13: cannot open shared object file')", "OSError"),
    ],
)
def test_any_other_error_is_raised_unchanged(tmp_path: Path, raised: str, kind: str) -> None:
    fake = fake_torchvision(tmp_path, f"import builtins\nbuiltins.seen = {raised}\nraise builtins.seen")
    out = run(
        """
        import builtins, sys
        from zoo.torchvision_repair import import_timm
        try:
            import_timm()
        except Exception as error:
            print(type(error).__name__, error is builtins.seen, "torch" in sys.modules)
        print("torchvision.early" in sys.modules)
        """,
        path=fake,
    )
    assert out.splitlines() == [f"{kind} True False", "True"]


def test_only_this_very_error_is_cured_and_half_imports_are_forgotten(tmp_path: Path) -> None:
    fake = fake_torchvision(
        tmp_path,
        """
        import sys, torch
        sys.imports = getattr(sys, "imports", []) + [early]
        if not hasattr(torch.ops.torchvision, "nms"):
            raise RuntimeError("operator torchvision::nms does not exist")
        """,
    )
    out = run(
        """
        import sys
        from zoo.torchvision_repair import repair_torchvision
        repair_torchvision()
        first, second = sys.imports
        print(first is second)
        import torch
        try:
            torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        except NotImplementedError:
            print("defined, not implemented")
        """,
        path=fake,
    )
    assert out.splitlines() == ["False", "defined, not implemented"]
