"""`swell simulate`, as people use it."""

import re
from pathlib import Path

from commandline import Swell


def test_a_launch_is_told_in_words_and_again_the_same(tmp_path: Path) -> None:
    swell = Swell(tmp_path)
    asked = ("simulate", "--users", "5000", "--every", "120", "--speed", "0.5", "--quota", "40")
    told = swell.ok(*asked)
    # 5,000 people with a picture each two minutes are 42 pictures a second, which 83 workers draw.
    for words in (
        "Simulated: demand as a flow",
        "pictures per second. It needs up to",
        "With at most 40 workers",
        "in each of 3 places",
        "$ a day",
        "0 lost",
    ):
        assert words in told
    assert swell.ok(*asked) == told


def test_numbers_of_a_crowd_that_is_simulated_smaller_are_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / "swell.toml").write_text(
        '[pools.few]\nmodels = ["acme/poster"]\nmost = 100\nhour_micros = 800_000\n'
        'rates = {"acme/poster" = 0.01}\n'
    )
    swell = Swell(tmp_path)
    asked = ("simulate", "azure-conv", "--scale", "2", "--patience", "5")
    found = swell.json(*asked)
    told, size = found["simulated"], found["times_as_large"]
    assert size > 1.5
    assert told["refused"] + told["expired"] > told["tasks"] / 4
    line = next(each for each in swell.ok(*asked).splitlines() if "given up" in each)
    numbers = [int(each.replace(",", "")) for each in re.findall(r"\d[\d,]*\d|\d", line)]
    whole = (told[name] * size for name in ("tasks", "lost", "refused", "expired"))
    assert numbers == [round(each) for each in whole]


def test_a_gpu_is_known_however_it_is_written(tmp_path: Path) -> None:
    swell = Swell(tmp_path)
    found = swell.json("simulate", "azure-conv", "--scale", "0.2", "--gpu", "l4")["quotas"]
    assert found
    assert {each["gpu"] for each in found} == {"L4"}


def test_numbers_are_there_as_json(tmp_path: Path) -> None:
    swell = Swell(tmp_path)
    told = swell.json("simulate", "--users", "5000", "--quota", "40", "--price", "0.9")
    simulated, short = told["simulated"], told["with_quota"]["simulated"]
    assert 38 < simulated["peak_per_s"] < 60
    assert 80 < simulated["peak"] < 150
    assert simulated["lost"] == short["lost"] == 0
    assert simulated["late"] < 0.1 < short["late"]
    assert short["admitted"] < 0.9
    # No worker draws more than half a picture a second.
    assert simulated["image_micros"] >= 0.9 / 3600 * 2 * 1e6
    assert (
        sum(simulated["kinds"].values()) == simulated["worker_s"]
        or abs(sum(simulated["kinds"].values()) / simulated["worker_s"] - 1) < 1e-6
    )


def test_tasks_of_a_file_are_simulated_one_by_one_on_the_pools_of_the_settings(
    tmp_path: Path,
) -> None:
    lines = "".join(f"{at / 2},1,u{at % 7},{at % 20 and 1}\n" for at in range(1200))
    (tmp_path / "tasks.csv").write_text("at_s,samples,user,priority\n" + lines)
    (tmp_path / "swell.toml").write_text(
        '[pools.spot]\nmodels = ["acme/poster"]\nmost = 3\nspot = true\nlosses_per_hour = 2\n'
        'hour_micros = 350_000\nstart_s = 30\nrates = {"acme/poster" = 0.5}\n'
        '[pools.owned]\nmodels = ["acme/poster"]\nleast = 1\nmost = 9\nstart_s = 30\n'
        'hour_micros = 900_000\nrates = {"acme/poster" = 0.5}\n'
    )
    told = Swell(tmp_path).json("simulate", "tasks.csv")["simulated"]
    assert (told["level"], told["tasks"], told["lost"], told["left"]) == ("tasks", 1200, 0, 0)
    assert set(told["peaks"]) == {"spot", "owned"}
    assert told["peaks"]["spot"] <= 3
    assert set(told["priorities"]) == {"0", "1"}


TWO = """
[pools.both]
models = ["acme/poster", "acme/sketch"]
most = 40
slots = 2
start_s = 30
rates = {"acme/poster" = 0.5, "acme/sketch" = 2.0}

[pools.sketches]
models = ["acme/sketch"]
most = 40
start_s = 30
hour_micros = 100_000
rates = {"acme/sketch" = 2.0}
"""


def test_several_models_are_drawn_by_the_pools_that_have_them(tmp_path: Path) -> None:
    (tmp_path / "swell.toml").write_text(TWO.replace("slots = 2", "hour_micros = 800_000"))
    swell = Swell(tmp_path)
    told = swell.json(
        "simulate", "azure-conv", "--model", "acme/poster", "--model", "acme/sketch=3"
    )["simulated"]
    assert set(told["models"]) == {"acme/poster", "acme/sketch"}
    assert told["lost"] == told["left"] == 0
    assert all(each["late"] < 0.1 for each in told["models"].values())
    assert told["peaks"]["sketches"] > 0, "the cheaper pool draws what it can"
    assert told["peaks"]["both"] > 0, "nobody else has posters"
    refused = swell.run("simulate", "azure-conv", "--model", "acme/other")
    assert refused.returncode == 2
    assert "no pool of the settings has acme/other" in refused.stderr


def test_tasks_of_a_file_say_of_which_model_they_are(tmp_path: Path) -> None:
    (tmp_path / "swell.toml").write_text(TWO)
    lines = "".join(f"{at},{'acme/poster' if at % 4 else 'acme/sketch'}\n" for at in range(400))
    (tmp_path / "tasks.csv").write_text("at_s,model\n" + lines)
    swell = Swell(tmp_path)
    told = swell.json("simulate", "tasks.csv")["simulated"]
    assert (told["tasks"], told["lost"], set(told["models"])) == (
        400,
        0,
        {"acme/poster", "acme/sketch"},
    )
    assert " late" in swell.ok("simulate", "tasks.csv")
    refused = swell.run("simulate", "tasks.csv", "--model", "acme/poster")
    assert refused.returncode == 2
    assert "column model" in refused.stderr


def test_workers_that_draw_several_at_once_draw_as_much_and_each_takes_longer(
    tmp_path: Path,
) -> None:
    swell = Swell(tmp_path)
    alone = swell.json("simulate", "azure-conv", "--scale", "0.2")["simulated"]
    many = swell.json("simulate", "azure-conv", "--scale", "0.2", "--slots", "4")["simulated"]
    assert many["lost"] == many["left"] == 0
    assert 0.75 < many["worker_s"] / alone["worker_s"] < 1.25
    better = ("--slots", "4", "--slower", "1,1,1,1", "--times", "seconds.txt")
    (tmp_path / "seconds.txt").write_text("2\n2\n")
    quick = swell.json("simulate", "azure-conv", "--scale", "0.2", *better)["simulated"]
    # Four at once that do not disturb each other.
    assert quick["worker_s"] < 0.5 * alone["worker_s"]


def test_how_models_and_slots_are_told_is_checked(tmp_path: Path) -> None:
    swell = Swell(tmp_path)
    for options, words in (
        (("--model", "a/b=0"), "a share above 0"),
        (("--model", "a/b", "--model", "a/b"), "each model once"),
        (("--model", "a/b=x"), "a share above 0"),
        (("--slots", "2", "--slower", "1,0.5"), "do not fall"),
        (("--slots", "2", "--slower", "x"), "begin with 1"),
        (("--model", "a/b", "--model", "a/c", "--scale", "1000"), "use a smaller scale"),
    ):
        refused = swell.run("simulate", "azure-conv", *options)
        assert refused.returncode == 2, options
        assert words in " ".join(refused.stderr.split()), options


def test_what_is_wrong_is_told_with_what_to_do(tmp_path: Path) -> None:
    swell = Swell(tmp_path)
    (tmp_path / "bad.csv").write_text("time,n\n1,2\n")
    (tmp_path / "none.txt").write_text("quick\n")
    (tmp_path / "still.csv").write_text("minute,images_per_s\n0,0\n1,0\n")
    for arguments, words in (
        (("v9",), "neither a file nor one of v1, v2, v3, spike, azure-conv"),
        ((), "name a trace, such as v2, or say --users"),
        (("v2", "--users", "5"), "one of both"),
        (("bad.csv",), "columns minute and images_per_s"),
        (("still.csv",), "no demand in still.csv"),
        (("spike", "--times", "none.txt"), "one number a line, or gentd26"),
        (("spike", "--level", "quick"), "--level must be tasks or fluid"),
        (("azure-conv", "--gpu", "L3"), "--gpu L3 is not in the price book: there are A100"),
        (("azure-conv", "--scale", "1000", "--quota", "3"), "--quota 3 is no whole worker at 1/"),
    ):
        done = swell.run("simulate", *arguments)
        assert done.returncode in (1, 2)
        assert words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
