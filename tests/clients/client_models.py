"""A model that reads a file, for clients that send one."""

import swell


@swell.model("tests/measure")
def measure(image: swell.Image, note: str = "") -> list[str]:
    """Tell the size of a picture, and give the note back."""
    picture = image.pil()
    return [str(picture.width), str(picture.height), note]
