"""What people might write for a picture, and what the picture then looks like."""

from __future__ import annotations

# Each is drawn behind the icon by `scenes.py`; the words follow the subject.
SCENES = {
    "snow": ["in the snow", "in winter", "on a snowy day", "in a snowy forest"],
    "night": ["at night", "under the stars", "in the moonlight", "in the dark"],
    "space": ["in space", "in outer space", "among the stars", "flying through space"],
    "beach": ["at the beach", "on the beach", "by the sea", "on a tropical island"],
    "meadow": ["in a meadow", "on the grass", "in a garden", "in a field", "in the forest"],
    "sunset": ["at sunset", "at dawn", "in the evening light", "in front of the sunset"],
    "rain": ["in the rain", "on a rainy day", "in a storm"],
    "water": ["under water", "underwater", "in the ocean", "swimming in the sea"],
    "desert": ["in the desert", "on the sand", "among the dunes"],
    "city": ["in the city", "in the street", "in front of skyscrapers"],
}
BACKGROUNDS = {
    "red": "#d83a3a",
    "orange": "#f08c2e",
    "yellow": "#f7d348",
    "green": "#4caf50",
    "blue": "#3f7ee8",
    "light blue": "#a9d4f5",
    "purple": "#8a4fc7",
    "pink": "#f5a3c7",
    "black": "#16161a",
    "grey": "#9aa0a6",
}
# Target hue in degrees for a recoloured subject.
HUES = {"red": 0, "orange": 28, "yellow": 50, "green": 125, "blue": 218, "purple": 275, "pink": 325}

ARTICLES = ["{}", "{}", "{}", "a {}", "the {}", "one {}"]
FRAMES = [
    "{}",
    "{}",
    "{}",
    "{}",
    "a picture of {}",
    "a drawing of {}",
    "an icon of {}",
    "draw {}",
    "{} emoji",
    "{} on a white background",
    "an illustration of {}",
    "{}, simple, clean",
]
MOODS = [
    "cute",
    "happy",
    "little",
    "big",
    "beautiful",
    "funny",
    "small",
    "nice",
    "magic",
    "lovely",
    "cool",
    "baby",
    "old",
    "shiny",
    "friendly",
    "colorful",
]
# Two icons side by side, at half their size.
PAIRS = ["{} and {}", "{} and {}", "a {} and a {}", "{} with {}", "{} next to {}", "{} meets {}"]
# What the model cannot draw but people ask for: it learns to draw the subject and let the rest go.
EXTRAS = [
    "with a hat",
    "wearing sunglasses",
    "eating pizza",
    "reading a book",
    "with wings",
    "playing guitar",
    "on a table",
    "in the sky",
    "holding a flower",
    "riding a bicycle",
    "dancing",
    "in a spaceship",
    "with a friend",
    "sleeping",
    "flying",
    "on fire",
    "in the style of a painting",
]
