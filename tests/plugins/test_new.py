"""`clkd plugin new` of every kind: it passes its tests as generated, keeps the laws, installs, and is clean."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

from clkd import __version__
from clkd.cli.main import main
from clkd.errors import UserError
from clkd.scaffold import HOME, KINDS, new

ROOT = Path(__file__).parents[2]
RUFF = (sys.executable, "-m", "ruff")  # of this environment, which need not be on PATH


def names(kind: str) -> str:
    return f"own-{kind}"


@pytest.mark.parametrize(("name", "kind"), [("kd", "loss"), ("class-balanced", "memory"), ("clkd-ema", "teacher")])
def test_a_name_of_clkds_own_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"clkd has a {kind} '[a-z_]+' itself: choose another name"):
        new(name, kind, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution of each kind."""
    out = tmp_path_factory.mktemp("made")
    for kind in KINDS:
        new(names(kind), kind, out)
    return out


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clkd's entry points as pyproject.toml declares them, whatever was installed before."""
    site = tmp_path_factory.mktemp("site")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    info = site / f"clkd-{__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: clkd\nVersion: {__version__}\n")
    (info / "entry_points.txt").write_text(
        "[pytest11]\n" + "".join(f"{name} = {module}\n" for name, module in declared.items())
    )
    return site


def run(*command: object, path: list[Path] | None = None, cwd: Path | None = None) -> str:
    """Output of a command that has to succeed."""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*(path or []), ROOT]))}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=here, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_kind_passes_its_own_tests_as_generated(made: Path, fixtures: Path) -> None:
    """Contract, values, doctests and a training of each; in one process, since torch takes seconds to load."""
    roots = sorted(made.iterdir())
    tests = [place for root in roots for place in (root / "tests", root / root.name.replace("-", "_"))]
    options = ["-q", "-p", "no:cacheprovider", "--doctest-modules", "--import-mode=importlib", "--rootdir", made]
    out = run(sys.executable, "-m", "pytest", *options, *tests, path=[fixtures, *roots], cwd=made)
    passed = int(re.findall(r"(\d+) passed", out)[-1])
    assert passed >= 3 * len(KINDS) - 1, out


@pytest.mark.slow
def test_it_is_clean_by_this_repositorys_own_rules(made: Path) -> None:
    """Ruff with clkd's settings, and with those that the distribution brings; formatted, too."""
    ours = made / "ruff.toml"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    ours.write_text(
        f"line-length = {settings['line-length']}\ntarget-version = '{settings['target-version']}'\n[lint]\n"
        f"select = {settings['lint']['select']}\nignore = {settings['lint']['ignore']}\n"
        "[lint.per-file-ignores]\n'**/tests/**' = ['D', 'ANN']\n"
    )
    for root in sorted(made.glob("clkd-*")):
        run(*RUFF, "check", "--no-cache", "--config", ours, ".", cwd=root)
        run(*RUFF, "check", "--no-cache", ".", cwd=root)
        run(*RUFF, "format", "--no-cache", "--check", ".", cwd=root)
    ours.unlink()


@pytest.mark.slow
def test_a_long_and_a_short_name_are_formatted_as_well(tmp_path: Path) -> None:
    for kind in KINDS:
        for name in ("k9", "some-long-name-of-thirty-signs"):
            new(f"{name}", kind, tmp_path / kind)
    for root in tmp_path.glob("*/*"):
        run(*RUFF, "check", "--no-cache", ".", cwd=root)
        run(*RUFF, "format", "--no-cache", "--check", ".", cwd=root)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_whole(kind: str, made: Path) -> None:
    root = made / f"clkd-own-{kind}"
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["clkd"] == {f"own_{kind}": f"clkd_own_{kind}"}
    workflow = yaml.safe_load((root / ".github/workflows/test.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step][-1].endswith(f"own_{kind}")
    written = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    text = "".join(path.read_text() for path in written)
    assert not re.search(r"[Mm]ine|KIND", text.replace("determine", "")), "a placeholder is left"
    assert (root / f"clkd_own_{kind}" / "py.typed").exists()


def test_every_template_is_used() -> None:
    kinds = {path.name for path in HOME.iterdir() if path.is_dir() and path.name not in ("shared", "__pycache__")}
    assert kinds == set(KINDS)


@pytest.mark.parametrize("name", ["My-KD", "9lives", "a b", "", "x" * 31, "../up", "a--b", "clkd-", "é"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be a plugin's name"):
        new(name, "loss", tmp_path)


@pytest.mark.parametrize("name", ["lambda", "loss", "batch", "tensor", "clkd-signals"])
def test_a_word_of_the_plugins_own_code_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose another, such as my-"):
        new(name, "loss", tmp_path)


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "my-kd", "--kind", "loss", "--out", str(tmp_path)]) == 0
    assert f"cd {tmp_path}/clkd-my-kd" in capsys.readouterr().out
    assert main(["plugin", "new", "my_kd", "--kind", "metric", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_it_installs_and_is_found(made: Path, house, tmp_path: Path) -> None:
    house.install(str(made / "clkd-own-metric"))
    listed = {each["name"]: each for each in json.loads(house.clkd("plugins", "--json").stdout)}
    assert listed["own_metric"]["provides"] == ["metrics:own_metric"]
    done = house.clkd("validate", made / "clkd-own-metric" / "scenario.yaml")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_kind_installs_is_checked_and_runs_its_scenario(made: Path, house) -> None:
    house.install(*map(str, sorted(made.glob("clkd-*"))))
    done = house.clkd("plugin", "check", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = {each["plugin"]: each["parts"] for each in json.loads(done.stdout)}
    assert set(told) == {f"own_{kind}" for kind in KINDS}
    assert [part["status"] for parts in told.values() for part in parts] == ["ok"] * len(KINDS)
    for kind in KINDS:
        off = [] if kind == "tracker" else ["--tracking", "off"]
        scenario = made / f"clkd-own-{kind}" / "scenario.yaml"
        done = house.clkd("run", scenario, "-q", "--limit-batches", "3", *off)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_kind_passes_mypy_strict(made: Path) -> None:
    roots = sorted(made.glob("clkd-*"))
    modules = [root / root.name.replace("-", "_") for root in roots]
    run(
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        ROOT / "pyproject.toml",
        *modules,
        path=roots,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_a_fresh_environment_from_nothing_to_a_tested_loss(made: Path, tmp_path: Path) -> None:
    """As an author does it: editable installs by pip, the fixtures found by themselves. Dependencies are borrowed."""
    home = tmp_path / "venv"
    venv.create(home)
    (site,) = home.glob("lib/*/site-packages")
    borrowed = next(place for place in sys.path if place.endswith("site-packages"))
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    python, environment = home / "bin" / "python", {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    pip = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--ignore-installed",
    ]
    for source in (ROOT, made / "clkd-own-loss"):
        subprocess.run([*map(str, [*pip, "-e", source])], check=True, env=environment)
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q"],
        cwd=made / "clkd-own-loss",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
