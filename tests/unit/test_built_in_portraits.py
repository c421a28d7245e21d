import numpy as np
import PIL.Image
import pytest
from pydantic import ValidationError

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

from swell.models.onnx_sessions import weights
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.media import Image
from swell_models.faces import FaceDetector
from swell_models.paint import STYLES
from swell_models.portraits import Portraits, Studio
from swell_models.scenes import SCENES, read_scenes


def portrait() -> np.ndarray:
    return np.asarray(PIL.Image.open(weights("portrait.webp")).convert("RGB"))


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(threads=1)


@pytest.fixture(scope="module")
def model() -> Portraits:
    made = Portraits(threads=1)
    made.load("cpu")
    return made


def item(pixels: np.ndarray, **fields: object) -> Item:
    fields = {"size": 512, "scenarios": ["studio"], "seed": 1} | fields
    return Item(Portraits.Input(image=Image(pixels), **fields))


# --- scenes


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_is_drawn_and_says_how_it_is_painted(name: str) -> None:
    scene = SCENES[name]
    assert scene.style in STYLES
    assert 0 <= scene.strength <= 1
    assert 0 <= scene.lit <= 1
    assert len(scene.prompt) > 20
    drawn = scene.draw(96, 64, seed=1)
    assert (drawn.mode, drawn.size) == ("RGB", (96, 64))
    assert np.asarray(drawn).std() > 5


def test_a_seed_draws_the_same_scene_again_and_another_one_another() -> None:
    first, again, other = (np.asarray(SCENES["space"].draw(64, 64, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_scenes_differ_from_each_other() -> None:
    drawn = [np.asarray(scene.draw(32, 32)).astype(int) for scene in SCENES.values()]
    for number, one in enumerate(drawn):
        assert all(np.abs(one - other).mean() > 5 for other in drawn[number + 1 :])


def test_some_scenes_have_something_in_front() -> None:
    front = SCENES["snow"].front(64, 64)
    assert front is not None
    assert 0 < np.asarray(front)[..., 3].mean() < 128
    assert SCENES["studio"].front(64, 64) is None


def test_a_scene_of_ones_own_is_read_from_a_file(tmp_path) -> None:
    (tmp_path / "mine.toml").write_text(
        '[wall]\ntitle = "A wall"\nprompt = "before a wall"\nstyle = "pop"\nstrength = 0.5\n'
        'light = "#ffffff"\nlit = 0.0\n'
        'layers = [{ kind = "gradient", colours = ["#ff0000", "#0000ff"] }]\n'
    )
    drawn = np.asarray(read_scenes(tmp_path / "mine.toml")["wall"].draw(10, 10))
    assert drawn[0, 0, 0] > 200 > drawn[-1, 0, 0]


# --- portraits


@pytest.mark.slow
def test_the_sitter_is_cut_out_with_the_face_whole(studio: Studio) -> None:
    sitter = studio.sitter(portrait())
    assert sitter is not None
    alpha = np.asarray(sitter.picture.getchannel("A"))
    left, top, right, bottom = (round(edge) for edge in sitter.face)
    assert alpha[top + 5 : bottom - 5, left + 12 : right - 12].min() > 200
    assert alpha[:12, :12].max() < 60
    assert alpha[:12, -12:].max() < 60


@pytest.mark.slow
def test_the_face_stands_where_portraits_have_it_and_is_still_a_face(studio: Studio) -> None:
    sitter = studio.sitter(portrait())
    assert sitter is not None
    detector = FaceDetector(1)
    for scene in (SCENES["beach"], SCENES["studio"]):
        picture, likeness = studio.compose(sitter, scene)
        [face, *_] = detector(picture)
        middle = np.array(face.box).reshape(2, 2).mean(0) / 512
        assert middle == pytest.approx([0.5, 0.45], abs=0.12)
        x, y = (middle * 512).astype(int)
        assert likeness[y, x] > 200
        assert likeness[5, 5] == 0


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right", "top"])
def test_a_person_cut_by_the_pictures_edge_is_cut_by_the_portraits(
    studio: Studio, side: str
) -> None:
    box = {"left": (78, 0, 160, 160), "right": (0, 0, 85, 160), "top": (0, 35, 160, 160)}[side]
    left, top, right, bottom = box
    sitter = studio.sitter(portrait()[top:bottom, left:right])
    assert sitter is not None
    bare = np.asarray(SCENES["studio"].draw(512, 512)).astype(int)
    picture, _ = studio.compose(sitter, SCENES["studio"])
    changed = np.abs(picture - bare).max(2) > 40
    edge = {"left": changed[:, 2], "right": changed[:, -3], "top": changed[2]}[side]
    assert edge.mean() > 0.05
    assert changed[-3].mean() > 0.1


@pytest.mark.slow
def test_the_background_is_the_scenes(studio: Studio) -> None:
    sitter = studio.sitter(portrait())
    assert sitter is not None
    picture, _ = studio.compose(sitter, SCENES["meadow"], seed=3)
    bare = np.asarray(SCENES["meadow"].draw(512, 512, seed=3))
    assert np.abs(picture[:60, :90].astype(int) - bare[:60, :90]).mean() < 3


@pytest.mark.slow
def test_a_pack_has_a_portrait_of_each_scenario_in_its_order(model: Portraits) -> None:
    [pack] = model.run([item(portrait(), scenarios=["studio", "space"])])
    assert isinstance(pack, list)
    assert [image.metadata["scenario"] for image in pack] == ["studio", "space"]
    assert [image.pil().size for image in pack] == [(512, 512)] * 2
    studio, space = (np.asarray(image.pil()).astype(int) for image in pack)
    assert np.abs(studio - space).mean() > 20


@pytest.mark.slow
def test_painting_changes_the_scene_more_than_the_face(model: Portraits) -> None:
    plain, painted = (
        np.asarray(model.run([item(portrait(), style=style)])[0][0].pil()).astype(int)
        for style in ("none", "ember")
    )
    difference = np.abs(plain - painted).mean(2)
    assert difference[:80].mean() > difference[200:260, 230:280].mean() > 5


@pytest.mark.slow
def test_the_large_size_is_twice_the_small_one(model: Portraits) -> None:
    small, large = (
        model.run([item(portrait(), style="none", size=size)])[0][0].pil() for size in (512, 1024)
    )
    assert large.size == (1024, 1024)
    again = large.resize((512, 512), PIL.Image.Resampling.BOX)
    assert np.abs(np.asarray(again).astype(int) - np.asarray(small)).mean() < 6


@pytest.mark.slow
def test_no_face_is_refused_with_what_to_give_and_spares_the_others(model: Portraits) -> None:
    empty = np.full((200, 200, 3), 90, np.uint8)
    refused, pack = model.run([item(empty), item(portrait())])
    assert isinstance(refused, Reject)
    assert "No face" in str(refused)
    assert isinstance(pack, list)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("degrees", "side"), [(45, 600), (90, 160), (135, 160), (180, 600), (270, 160)]
)
def test_a_face_in_a_turned_picture_is_upright_in_its_portrait(
    studio: Studio, degrees: int, side: int
) -> None:
    upright = PIL.Image.fromarray(portrait()).resize((side, side))
    turned = upright.rotate(degrees, PIL.Image.Resampling.BICUBIC, expand=True)
    sitter = studio.sitter(np.asarray(turned))
    assert sitter is not None
    picture, _ = studio.compose(sitter, SCENES["studio"])
    [face, *_] = FaceDetector(1)(picture)
    left_eye, right_eye, nose, *mouth = face.landmarks
    assert left_eye[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(y for _, y in mouth)
    assert abs(face.tilt_deg) < 20


@pytest.mark.slow
def test_a_picture_with_a_tilted_head_stays_as_it_is(studio: Studio) -> None:
    tilted = PIL.Image.fromarray(portrait()).rotate(20, PIL.Image.Resampling.BICUBIC)
    [face] = FaceDetector(1)(np.asarray(tilted))
    assert 5 < face.tilt_deg < 35
    sitter = studio.sitter(np.asarray(tilted))
    assert sitter is not None
    assert sitter.picture.size == (160, 160)


@pytest.mark.slow
def test_a_large_face_is_cut_out_no_larger_than_a_portrait_shows(studio: Studio) -> None:
    sitter = studio.sitter(np.asarray(PIL.Image.fromarray(portrait()).resize((2400, 2400))))
    assert sitter is not None
    assert sitter.face[3] - sitter.face[1] == pytest.approx(400, abs=1)
    assert max(sitter.picture.size) < 1600


@pytest.mark.slow
def test_of_several_faces_the_largest_sits(studio: Studio) -> None:
    both = np.full((320, 480, 3), 128, np.uint8)
    small = PIL.Image.fromarray(portrait()).resize((120, 120))
    both[:120, :120] = np.asarray(small)
    both[:, 160:] = np.asarray(PIL.Image.fromarray(portrait()).resize((320, 320)))
    sitter = studio.sitter(both)
    assert sitter is not None
    left, top, right, bottom = sitter.face
    assert bottom - top > 100
    assert right - left > 80


class Stops:
    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))

    def preview(self, make) -> None:
        assert make().shape == (256, 256, 3)

    def is_cancelled(self) -> bool:
        return bool(self.told)

    def ready(self, index, file) -> None:
        self.ready_at = index, file.pil().size


@pytest.mark.slow
def test_a_cancelled_pack_ends_after_the_portrait_at_hand(model: Portraits) -> None:
    ears = Stops()
    given = Portraits.Input(image=Image(portrait()), size=512, scenarios=["studio", "beach"])
    assert isinstance(model.run([Item(given, listener=ears)])[0], Cancelled)
    assert ears.told == [(1, 2)]
    assert ears.ready_at == (0, (512, 512))


@pytest.mark.parametrize(
    "wrong",
    [{"scenarios": []}, {"scenarios": ["moon"]}, {"style": "oils"}, {"size": 640}, {"strength": 2}],
)
def test_inputs_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Portraits.Input(image=Image(portrait()), **wrong)
