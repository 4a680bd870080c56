"""Every example runs by the command that its first line gives, and learns."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "data.py")

FRAMEWORKS = {
    "accelerate_loop.py": ("accelerate", "transformers"),
    "lightning_trainer.py": ("lightning.pytorch", "lightning"),
    "regression.py": ("sklearn", "demo"),
    "transformers_trainer.py": ("transformers", "transformers"),
}
"""What they need beyond torch, and the extra that it comes with."""

LEARNED = {
    "lightning_trainer.py": 0.6,
    "regression.py": 0.6,
    "transformers_trainer.py": 2.4,
    **dict.fromkeys(["accelerate_loop.py", "amp_and_accumulation.py", "compiled.py"], 0.4),
    **dict.fromkeys(["ddp.py", "plain_pytorch.py"], 0.4),
}
"""What the last number after "error" or "loss of a letter" stays below; for Shuttle in percent, where 20 is chance."""

groups = {name: "lightning" if name.startswith("lightning") else "transformers" for name in FRAMEWORKS}


def first_line(name):
    return (EXAMPLES / name).read_text(encoding="utf-8").splitlines()[0]


def run(name, monkeypatch, capsys):
    """Run an example as its first line says; in this process where that is one process, to import nothing twice."""
    if "torchrun" in first_line(name):
        arguments = first_line(name).split("torchrun ")[1].split()
        command = [sys.executable, "-m", "torch.distributed.run", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_says_how_to_run_it_in_its_first_line(name):
    launcher = r"(python|torchrun --standalone --nproc-per-node 2)"
    assert re.fullmatch(rf"# make env && \.venv/bin/{launcher} examples/{re.escape(name)}", first_line(name))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(groups.get(name, name))) for name in NAMES]
)
def test_runs_and_learns(name, monkeypatch, capsys):
    if name in FRAMEWORKS:
        module, extra = FRAMEWORKS[name]
        pytest.importorskip(module, reason=f"the extra `{extra}` is not installed")
    if name == "compiled.py" and shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    state = torch.get_rng_state()
    output = run(name, monkeypatch, capsys)
    torch.set_rng_state(state)
    found = re.findall(r"(?:test error|loss of a letter) ([\d.]+)", output)
    assert found, output
    assert float(found[-1]) < LEARNED[name], output


def test_every_example_is_listed_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"examples/{name}" not in readme] == []
