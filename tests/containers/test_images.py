"""What is in an image, and what is not."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from container_cases import MARK, Image
from container_rig import BASE, mounted, podman

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WEIGHTS = (".onnx", ".safetensors", ".npz", ".pt", ".bin")


def config_of(image: Image) -> dict[str, object]:
    [told] = json.loads(podman("inspect", "--type", "image", image.tag).stdout)
    config: dict[str, object] = told["Config"]
    return config | {"Healthcheck": told["Healthcheck"], "layers": told["RootFS"]["Layers"]}


def own_files(root: Path, base: Path) -> Iterator[Path]:
    """Yield the files of an image that its base does not have."""
    for place, _, names in os.walk(root):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                beneath = base / path.relative_to(root)
                if not beneath.exists() or beneath.stat().st_size != path.stat().st_size:
                    yield path


def test_no_weights_are_inside_and_each_is_a_link_to_where_it_will_lie(icons: Image) -> None:
    with mounted(icons.tag) as root, mounted(BASE) as base:
        files = list(own_files(root, base))
        inside = [path for path in files if path.suffix in WEIGHTS and "swell_models" in str(path)]
        # Tables of words travel with the code: only networks are fetched by each worker.
        tables = {"icons-names.npz", "languages.npz"}
        assert {path.name for path in inside} <= tables
        assert sum(path.stat().st_size for path in inside) < 1_000_000
        listed = json.loads((root / "opt/swell/models/weights.json").read_text())
        [listing] = listed
        assert listing["model"] == "swell/icons"
        for name, content in listing["files"].items():
            link = root / "opt/swell/models" / name
            assert str(link.readlink()).endswith(
                f"files/{content['sha256'][:2]}/{content['sha256']}"
            )
    assert icons.told["weights_bytes"] == sum(
        each["size_bytes"] for each in listing["files"].values()
    )


def test_nothing_of_the_building_machine_is_inside(icons: Image, slow: Image) -> None:
    for image in (icons, slow):
        with mounted(image.tag) as root, mounted(BASE) as base:
            for path in own_files(root, base):
                assert MARK.encode() not in path.read_bytes(), path
            assert list((root / "run/secrets").iterdir()) == []
            assert not list((root / "var/cache/swell-uv").glob("*"))
            assert not list(root.glob("opt/swell/models/**/.env"))
        assert MARK not in podman("inspect", "--type", "image", image.tag).stdout
        assert MARK not in podman("history", "--no-trunc", "--format", "json", image.tag).stdout


def test_it_runs_as_nobody_special_with_one_folder_to_write(icons: Image) -> None:
    config = config_of(icons)
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert config["Volumes"] == {"/var/lib/swell": {}}
    assert config["Healthcheck"]["Test"] == ["CMD", "swell", "health"]
    assert not config.get("ExposedPorts")
    with mounted(icons.tag) as root:
        writable = [
            path
            for path in (root / "opt/swell").rglob("*")
            if not path.is_symlink()
            and (path.stat().st_uid == 10001 or path.stat().st_mode & 0o002)
        ]
        assert writable == []
        home = (root / "var/lib/swell").stat()
        assert (home.st_uid, home.st_mode & 0o777) == (10001, 0o700)


def test_packages_have_the_versions_of_this_machine(icons: Image) -> None:
    with mounted(icons.tag) as root:
        pinned = (root / "opt/swell/constraints.txt").read_text().split()
        [packages] = root.glob("opt/swell/venv/lib/python3*/site-packages")
        found = {path.name.lower().replace("_", "-") for path in packages.glob("*.dist-info")}
    wanted = {line.replace("==", "-") + ".dist-info" for line in pinned}
    assert found - wanted <= {name for name in found if name.startswith(("pip-", "swell-"))}


def test_a_change_of_the_models_code_makes_its_own_layer_anew_and_no_other(
    slow: Image, building: Callable[..., Image]
) -> None:
    was = config_of(slow)
    (slow.folder / "pace.py").write_text("TICK_S = 0.03\n")
    now = config_of(building("slow-changed", "slow.py", place=slow.folder))
    before, after = was.pop("layers"), now.pop("layers")
    assert now == was
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]
    with mounted("localhost/swell-test-slow-changed:latest") as root:
        assert "0.03" in (root / "opt/swell/models/1/pace.py").read_text()


def test_a_base_that_was_replaced_is_begun_with(
    building: Callable[..., Image], tmp_path: Path
) -> None:
    base = "localhost/swell-test-replaced:latest"
    try:
        for number in ("1", "2"):
            replace(base, number)
            image = building("replaced", "demo/upper", "--base", base, place=tmp_path)
            labels = config_of(image)["Labels"]
            assert isinstance(labels, dict)
            assert labels["number"] == number
    finally:
        podman("rmi", "--force", base)


def replace(base: str, number: str) -> None:
    """Give an image another content."""
    made = subprocess.run(["buildah", "from", BASE], capture_output=True, text=True, check=True)
    name = made.stdout.strip()
    subprocess.run(["buildah", "config", "--label", f"number={number}", name], check=True)
    commit = ["buildah", "commit", "--quiet", "--rm", name, base]
    subprocess.run(commit, check=True, stdout=subprocess.DEVNULL)


def test_baked_weights_lie_where_the_links_lead(building: Callable[..., Image]) -> None:
    pytest.importorskip("swell_models")
    image = building("baked", "swell/icons", "--bake")
    run = podman(
        *("run", "--rm", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"),
        *("--entrypoint", "swell", image.tag),
        *("run", "swell/icons", "-i", "prompt=a red fox", "-i", "steps=1", "--json"),
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["version"] == image.told["models"]["swell/icons"]
    assert told["files"]


def test_a_build_that_fails_says_why(building: Callable[..., Image], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the base image cannot be had"):
        building("no", "demo/upper", "--base", "localhost/swell-no-such-image:1", place=tmp_path)
