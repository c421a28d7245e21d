import re
from pathlib import Path

from swell.autoscaling import advice
from swell.config import load
from swell.pool_prices import pool_prices
from swell.providers.factory import options_of
from swell.providers.options import checked

ROOT = Path(__file__).parents[2]


def test_every_command_that_the_readme_makes_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_settings_of_the_readme_are_taken_and_nothing_in_them_is_warned_of(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / "swell.toml"
        path.write_text(block.replace("ami-…", "ami-0a1b2c3d4e5f"))
        settings = load(config=path, environment={}).settings
        assert advice(settings, pool_prices(settings)) == []
        for name, pool in settings.pools.items():
            checked(options_of(pool.provider), pool.options, f"pools.{name}.options")
