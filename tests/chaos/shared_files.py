"""Files that others use at the same time: permissions, what exists, eight at once, cut short while in use."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from chaos.experiment import Experiment, Outcome
from chaos.judging import Judges
from chaos.video_files import film
from tiny import TINY

import zoo
from zoo.errors import OutputExistsError, ZooError

_REFERENCE = f"hf://owner/name@{'a' * 40}"
_UMASKS = (0o022, 0o002, 0o027, 0o077, 0o000)


def digest(model: torch.nn.Module) -> str:
    """Return a hash of all weights."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def warm(folder: str) -> None:
    """Have loaded a model once."""
    digest(zoo.load(folder))


def _together(num: int, do: Callable[[int], str]) -> list[str]:
    """Run `do` in so many processes at one moment; return what each says, or its error."""
    start, children = time.time() + 0.5, []
    for number in range(num):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                time.sleep(max(0.0, start - time.time()))
                said = do(number)
            except ZooError as error:
                said = f"{type(error).__name__}: {error}"
            except BaseException as error:
                said = f"crashed: {type(error).__name__}: {error}"
            os.write(write, said.encode()[:4000])
            os._exit(0)
        os.close(write)
        children.append((child, read))
    told = []
    for child, read in children:
        with os.fdopen(read) as file:
            told.append(file.read())
        os.waitpid(child, 0)
    return told


def _tell(wrong: list[str]) -> None:
    assert not wrong, "; ".join(wrong)


def umasks(folder: str) -> None:
    """Write a model, a file and, in threads, several at once, under several umasks."""
    from zoo.cli.common import write_json

    model, wrong = zoo.build(TINY, seed=1), []
    for umask in _UMASKS:
        os.umask(umask)
        where = Path(folder) / f"{umask:o}"
        where.mkdir(mode=0o700)

        def save(number: int, where: Path = where) -> None:
            zoo.save(model, where / f"model{number}")
            write_json(where / f"{number}.json", {})

        threads = [threading.Thread(target=save, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        now = os.umask(umask)
        if now != umask:
            wrong.append(f"the umask {umask:o} became {now:o}")
        for path in where.rglob("*"):
            wanted = (0o777 if path.is_dir() else 0o666) & ~umask
            if path.stat().st_mode & 0o777 != wanted:
                wrong.append(f"{path.name} has {path.stat().st_mode & 0o777:o} under the umask {umask:o}")
    _tell(wrong)


def saved_together(folder: str, num: int) -> None:
    """Save to one place from several processes, without and with force."""
    target = Path(folder) / "model"
    models = [zoo.build(TINY, seed=seed) for seed in range(num)]
    told = _together(num, lambda number: f"saved {zoo.save(models[number], target).name}")
    wrong = [said for said in told if not said.startswith(("saved", OutputExistsError.__name__))]
    if Counter(said.split(" ")[0] for said in told)["saved"] != 1:
        wrong.append(f"without force it was not one who saved: {told}")
    known = {digest(model) for model in models}
    told = _together(num, lambda number: f"saved {zoo.save(models[number], target, force=True).name}")
    wrong += [said for said in told if not said.startswith("saved")]
    if digest(zoo.load(target)) not in known:
        wrong.append("the model that is there is none of those that were saved")
    wrong += [f"left behind: {path.name}" for path in Path(folder).iterdir() if path != target]
    _tell(wrong)


def files_together(folder: str, num: int) -> None:
    """Write one file from several processes without force."""
    from zoo.cli.common import write_json

    target = Path(folder) / "facts.json"

    def write(number: int) -> str:
        write_json(target, {"number": number, "more": "x" * 100_000})
        return "wrote"

    told = _together(num, write)
    json.loads(target.read_text())
    wrong = [said for said in told if not said.startswith(("wrote", OutputExistsError.__name__))]
    wrong += [] if told.count("wrote") == 1 else [f"not one wrote: {Counter(told)}"]
    _tell(wrong + [f"left behind: {path.name}" for path in Path(folder).iterdir() if path != target])


def loaded_together(reference: str, num: int, expected: str, environment: dict[str, str]) -> None:
    """Load one model in several processes."""
    os.environ.update(environment)
    told = _together(num, lambda _: digest(zoo.load(reference)))
    _tell([said[:300] for said in told if said != expected])


def cut_short(folder: str, video: str) -> None:
    """Cut files short while they are used: after loading, behind the header, while frames are read."""
    from zoo.data import iter_frames
    from zoo.safetensors_files import SafetensorsFile

    wrong = []
    weights = Path(folder) / "model.safetensors"
    model = zoo.load(folder)
    x = torch.rand(1, 3, 4, 16, 16) * 2 - 1
    before = model.reconstruct(x)
    with SafetensorsFile(weights) as file:
        os.truncate(weights, 9000)
        try:
            file.read()
            wrong.append("a file that was cut between header and numbers was read")
        except ZooError as error:
            if "cut short" not in str(error):
                wrong.append(str(error))
    os.truncate(weights, 0)
    if not torch.equal(before, model.reconstruct(x)):
        wrong.append("the model changed")
    try:
        zoo.load(folder)
        wrong.append("an empty file was loaded")
    except ZooError:
        pass
    frames = iter_frames(video)
    next(frames)
    os.truncate(video, 100)
    try:
        for _ in frames:
            pass
    except ZooError:
        pass
    _tell(wrong)


_COMMANDS = (
    ("train", "vqvae-video-tiny", "--data", "demo", "--steps", "1", "--out", "OUT"),
    ("reconstruct", "MODEL", "VIDEO", "OUT"), ("encode", "MODEL", "VIDEO", "OUT"),
    ("decode", "MODEL", "VIDEO", "OUT"), ("tokenize", "MODEL", "VIDEO", "--out", "OUT"),
    ("sample", "MODEL", "OUT"), ("predict", "MODEL", "VIDEO", "OUT"),
    ("interpolate", "MODEL", "VIDEO", "VIDEO", "OUT"), ("inpaint", "MODEL", "VIDEO", "OUT"),
    ("eval", "MODEL", "--data", "demo", "--out", "OUT"), ("new-plugin", "OUT"),
    ("weights", "convert", "VIDEO", "--as", "cosmos", "--out", "OUT"),
    ("weights", "convert", "VIDEO", "--as", "cosmos", "--dry-run", "--report", "OUT"),
)  # fmt: skip


def overwritten(folder: str, model: str, video: str) -> None:
    """Run every command that writes onto a file and onto a folder that exist, without --force."""
    from zoo.cli.group import cli

    wrong = []
    os.chdir(folder)
    for words in _COMMANDS:
        for kind in ("file", "folder"):
            out = Path(folder) / "existing"
            if kind == "folder":
                out.mkdir()
            precious = out / "thesis.txt" if kind == "folder" else out
            precious.write_text("years of work")
            names = {"OUT": str(out), "MODEL": model, "VIDEO": video}
            code: Any = 0
            try:
                cli.main([names.get(word, word) for word in words], prog_name="zoo")
            except SystemExit as error:
                code = error.code
            if code not in (1, 2) or not precious.is_file() or precious.read_text() != "years of work":
                wrong.append(f"zoo {' '.join(words)} onto a {kind}: exit {code}")
            if out.is_dir():
                shutil.rmtree(out)
            else:
                out.unlink()
    _tell(wrong)


class Hub:
    """A Hub of one model on this machine, which counts what is fetched. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.fetched: Counter[str] = Counter()
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def _answer(self, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(200)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path.startswith("/api/"):
                    listed = [{"rfilename": name, "type": "file", "path": name, "oid": "0", "size": len(data)}
                              for name, data in files.items()]  # fmt: skip
                    facts = {"id": "owner/name", "sha": "a" * 40, "siblings": listed}
                    body = json.dumps(listed if "/tree/" in path else facts).encode()
                    return self._answer(body, {"Content-Type": "application/json"})
                name = path.rpartition("/")[2]
                if name not in files:
                    return self.send_error(404)
                if self.command == "GET":
                    hub.fetched[name] += 1
                    time.sleep(0.2)
                tag = hashlib.sha256(files[name]).hexdigest()
                return self._answer(files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": "a" * 40})

            do_HEAD = do_GET

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"


def judge_all(folder: Path, *, num: int = 8) -> tuple[list[str], list[str]]:
    """Do all of it.

    Returns:
        What was done and held, and what is wrong.
    """
    base = zoo.save(zoo.build(TINY, seed=5), folder / "base")
    expected = digest(zoo.load(base))
    video = folder / "video.mp4"
    video.write_bytes(film("mpeg4", "mp4", num=200))
    held, wrong = [], []

    def fresh(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    with (
        Hub(base) as hub,
        Judges(["chaos.shared_files"], [("chaos.shared_files:warm", [str(base)])]) as court,
    ):
        home = fresh("hub")
        online = {
            "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        live = shutil.copytree(base, folder / "live")
        shutil.copy(video, folder / "cut.mp4")
        tasks: dict[str, tuple[str, list[Any]]] = {
            f"{len(_UMASKS)} umasks respected, by 6 threads at once": ("umasks", [str(fresh("umasks"))]),
            f"{len(_COMMANDS)} commands overwrite nothing": (
                "overwritten", [str(fresh("commands")), str(base), str(video)],
            ),
            f"{num} processes saving one model": ("saved_together", [str(fresh("saves")), num]),
            f"{num} processes writing one file": ("files_together", [str(fresh("files")), num]),
            f"{num} loading one model": ("loaded_together", [str(base), num, expected, {}]),
            f"{num} fetching one model": ("loaded_together", [_REFERENCE, num, expected, online]),
            "files cut short in use": ("cut_short", [str(live), str(folder / "cut.mp4")]),
        }  # fmt: skip
        for name, (ask, words) in tasks.items():
            one = court.judge(name, f"chaos.shared_files:{ask}", *words, limit_s=240)
            if one.kind == "taken":
                held.append(name)
            else:
                wrong.append(f"{name}: {one.kind}: {one.told[-600:]}")
    twice = {name: times for name, times in hub.fetched.items() if times != 1}
    copies = [path for path in home.rglob("blobs/*") if path.is_file()]
    if twice or len(copies) != len(hub.fetched) or not copies:
        wrong.append(f"fetched more than once: {twice}; {len(copies)} copies of {len(hub.fetched)} files")
    return held, wrong


def _files(folder: Path, quick: bool) -> Outcome:
    held, wrong = judge_all(folder, num=3 if quick else 8)
    return Outcome(f"{'; '.join(held)}: {len(wrong)} faults", not wrong, "; ".join(wrong[:3]))


EXPERIMENTS = [
    Experiment(
        20,
        "Files that others use at the same time",
        "The umask respected; nothing overwritten without --force, by any command or in a race; 8 processes "
        "loading or fetching one model: one copy, all equal; one cut short under a live model does no harm",
        _files,
    )
]
